"use strict";
// One image: all methods side by side, and its numbers. Arrow keys lead to its neighbours among those that were picked.

(() => {
  const by = (id) => document.getElementById(id);
  let [image, turn, figures, drawn] = [-1, 0, [], -1];

  function about(image) {
    const { label, prediction, probability, labelProbability, agreement, row } = atlas.images;
    const told = [
      `label ${atlas.className(label[image])} (${atlas.percent(labelProbability[image])})`,
      `prediction ${atlas.className(prediction[image])} (${atlas.percent(probability[image])})`,
      `agreement of methods ${atlas.told(agreement[image], 2)}`,
      `row ${row[image]}`,
    ];
    return told.join(" · ");
  }

  function maps(names, key) {
    figures = names.map(({ name, control }) => {
      const caption = atlas.element("figcaption", {}, atlas.element("span", { class: "mono" }, name));
      if (control) caption.append(" ", atlas.element("span", { class: "tag" }, "control"));
      const says = atlas.element("p", { class: "says" });
      return atlas.element("figure", {}, atlas.canvas(`${name} map of ${key}`), caption, says);
    });
    const tiles = [...figures];
    if (atlas.about.pictures) {
      const caption = atlas.element("figcaption", {}, "picture");
      tiles.unshift(atlas.element("figure", { id: "detail-picture" }, atlas.canvas(`${key} without a map`), caption));
    }
    by("detail-maps").replaceChildren(...tiles);
  }

  atlas.numbersTable = (table, caption, head, rows) => {
    const line = (cells, tag) =>
      atlas.element("tr", {}, ...cells.map((text, place) => {
        if (place === 0) return atlas.element("th", { scope: tag === "th" ? "col" : "row", class: "mono" }, text);
        return atlas.element(tag, { scope: tag === "th" ? "col" : null, class: "number" }, text);
      }));
    table.replaceChildren(
      atlas.element("caption", {}, caption),
      atlas.element("thead", {}, line(head, "th")),
      atlas.element("tbody", {}, ...rows.map((row) => line(row, "td"))),
    );
  };

  async function draw(state, mine) {
    const { methods, numbers, target } = atlas.about;
    const place = atlas.images.place[image];
    const shard = await atlas.ofShard(atlas.images.shard[image]);
    const picture = await atlas.picture(shard, place);
    if (mine !== turn) return;
    const kind = atlas.targetNumber(state.target);
    if (picture) atlas.paint(by("detail-picture").firstChild, { picture, look: atlas.pictureOnly });
    methods.forEach((_, method) => {
      const [canvas, , says] = figures[method].children;
      atlas.paint(canvas, { picture, map: shard.map(place, kind, method), look: atlas.look(state) });
      const flag = shard.flag(place, kind, method);
      says.textContent = flag ? `says nothing: ${atlas.about.flags[flag]}` : "";
    });
    picture?.close();
    const values = shard.numbers(place);
    const rows = methods.map(({ name }, method) => [
      name, ...numbers.map((_, number) => atlas.told(values[method * numbers.length + number], 3)),
    ]);
    const head = ["method", ...numbers.map((name) => name.replaceAll("_", " "))];
    const caption = `Numbers of the maps of the ${target === "label" ? "label" : "prediction"}`;
    atlas.numbersTable(by("detail-numbers"), caption, head, rows);
    by("detail").dataset.row = atlas.images.row[image];
  }

  function neighbour(step) {
    const at = atlas.picked.indexOf(image);
    return at < 0 ? undefined : atlas.picked[at + step];
  }

  function go(step) {
    const next = neighbour(step);
    if (next !== undefined) atlas.go({ row: atlas.images.row[next] });
  }

  atlas.showDetail = async (state) => {
    const mine = ++turn;
    const dialog = by("detail");
    image = state.row < 0 ? -1 : atlas.place(state.row);
    if (image < 0) {
      if (dialog.open) dialog.close();
      return;
    }
    const key = atlas.images.keys[image];
    by("detail-title").textContent = key;
    by("detail-about").textContent = about(image);
    by("detail-previous").disabled = neighbour(-1) === undefined;
    by("detail-next").disabled = neighbour(1) === undefined;
    if (!dialog.open) dialog.showModal();
    if (image !== drawn) maps(atlas.about.methods, key);
    drawn = image;
    await draw(state, mine);
  };

  const dialog = by("detail");
  by("detail-previous").addEventListener("click", () => go(-1));
  by("detail-next").addEventListener("click", () => go(1));
  by("detail-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    const { row } = dialog.dataset;
    if (image >= 0) atlas.go({ row: -1 });
    // What opened it has the focus again; after a walk through the neighbours it is the image that was seen last.
    if (document.activeElement.dataset.row !== row) {
      document.querySelector(`.view:not([hidden]) button[data-row="${CSS.escape(row)}"]`)?.focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (!dialog.open || event.target.matches("input, select, [role=region]")) return; // arrows move these
    if (event.key === "ArrowLeft") go(-1);
    else if (event.key === "ArrowRight") go(1);
  });
})();
