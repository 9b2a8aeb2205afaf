"use strict";
// One image: all methods side by side, and its statistics. Arrow keys go to its neighbors in the gallery.

(() => {
  const by = (id) => document.getElementById(id);
  let [image, request, figures, shownImage] = [-1, 0, [], -1];

  function describe(image) {
    const { label, prediction, probability, labelProbability, agreement, row } = atlas.images;
    const parts = [
      `label ${atlas.className(label[image])} (${atlas.percent(labelProbability[image])})`,
      `prediction ${atlas.className(prediction[image])} (${atlas.percent(probability[image])})`,
      `agreement of methods ${atlas.formatNumber(agreement[image], 2)}`,
      `row ${row[image]}`,
    ];
    return parts.join(" · ");
  }

  function buildFigures(methods, key) {
    figures = methods.map(({ name, control }) => {
      const caption = atlas.element("figcaption", {}, atlas.element("span", { class: "mono" }, name));
      if (control) caption.append(" ", atlas.element("span", { class: "tag" }, "control"));
      const note = atlas.element("p", { class: "flag" });
      return atlas.element("figure", {}, atlas.canvas(`${name} map of ${key}`), caption, note);
    });
    const tiles = [...figures];
    if (atlas.about.thumbnails) {
      const caption = atlas.element("figcaption", {}, "image");
      tiles.unshift(atlas.element("figure", { id: "detail-image" }, atlas.canvas(`${key} without a map`), caption));
    }
    by("detail-maps").replaceChildren(...tiles);
  }

  atlas.fillTable = (table, caption, head, rows) => {
    const line = (cells, tag) =>
      atlas.element("tr", {}, ...cells.map((text, index) => {
        if (index === 0) return atlas.element("th", { scope: tag === "th" ? "col" : "row", class: "mono" }, text);
        return atlas.element(tag, { scope: tag === "th" ? "col" : null, class: "number" }, text);
      }));
    table.replaceChildren(
      atlas.element("caption", {}, caption),
      atlas.element("thead", {}, line(head, "th")),
      atlas.element("tbody", {}, ...rows.map((row) => line(row, "td"))),
    );
  };

  async function draw(state, current) {
    const { methods, statistics, targetInWords } = atlas.about;
    const place = atlas.images.place[image];
    const chunk = await atlas.loadChunk(atlas.images.chunk[image]);
    const thumbnail = await atlas.loadThumbnail(chunk, place);
    if (current !== request) return;
    const targetIndex = atlas.targetIndex(state.target);
    if (thumbnail) atlas.paint(by("detail-image").firstChild, { image: thumbnail, appearance: atlas.imageOnly });
    methods.forEach((_, method) => {
      const [canvas, , note] = figures[method].children;
      atlas.paint(canvas, { image: thumbnail, map: chunk.map(place, targetIndex, method), appearance: atlas.appearance(state) });
      const flag = chunk.flag(place, targetIndex, method);
      note.textContent = flag ? `degenerate: ${atlas.about.flags[flag]}` : "";
    });
    thumbnail?.close();
    const values = chunk.statistics(place);
    const rows = methods.map(({ name }, method) => [
      name, ...statistics.map((_, index) => atlas.formatNumber(values[method * statistics.length + index], 3)),
    ]);
    const head = ["method", ...statistics.map((name) => name.replaceAll("_", " "))];
    const caption = `Statistics of the maps of the ${targetInWords}`;
    atlas.fillTable(by("detail-statistics"), caption, head, rows);
    by("detail").dataset.row = atlas.images.row[image];
  }

  function neighbor(step) {
    const index = atlas.selected.indexOf(image);
    return index < 0 ? undefined : atlas.selected[index + step];
  }

  function go(step) {
    const next = neighbor(step);
    if (next !== undefined) atlas.go({ row: atlas.images.row[next] });
  }

  atlas.showDetail = async (state) => {
    const current = ++request;
    const dialog = by("detail");
    image = state.row < 0 ? -1 : atlas.findImage(state.row);
    if (image < 0) {
      if (dialog.open) dialog.close();
      return;
    }
    const key = atlas.images.keys[image];
    by("detail-title").textContent = key;
    by("detail-about").textContent = describe(image);
    by("detail-previous").disabled = neighbor(-1) === undefined;
    by("detail-next").disabled = neighbor(1) === undefined;
    if (!dialog.open) dialog.showModal();
    if (image !== shownImage) buildFigures(atlas.about.methods, key);
    shownImage = image;
    await draw(state, current);
  };

  const dialog = by("detail");
  by("detail-previous").addEventListener("click", () => go(-1));
  by("detail-next").addEventListener("click", () => go(1));
  by("detail-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    const { row } = dialog.dataset;
    if (image >= 0) atlas.go({ row: -1 });
    // The focus returns to the button that opened the dialog, or to the image that was shown last.
    if (document.activeElement.dataset.row !== row) {
      document.querySelector(`.view:not([hidden]) button[data-row="${CSS.escape(row)}"]`)?.focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (!dialog.open || event.target.matches("input, select, [role=region]")) return; // these use arrow keys
    if (event.key === "ArrowLeft") go(-1);
    else if (event.key === "ArrowRight") go(1);
  });
})();
