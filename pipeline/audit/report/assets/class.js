"use strict";
// The page of one class: its numbers, mean maps, and clusters.

(() => {
  const by = (id) => document.getElementById(id);

  function mean(told, method, state) {
    const { name, control } = atlas.about.methods[method];
    const { sign, mean } = told;
    const caption = atlas.element("figcaption", {}, atlas.element("span", { class: "mono" }, name));
    if (control) caption.append(" ", atlas.element("span", { class: "tag" }, "control"));
    if (sign?.alarm) caption.append(" ", atlas.element("span", { class: "tag alarm" }, "alarm"));
    const text = sign ? `rank ${sign.rank}, excess ${atlas.told(sign.excess, 2)}` : "maps say nothing";
    caption.append(atlas.element("br"), atlas.element("small", {}, `${text}${sign?.alarm ? `, ${sign.where}` : ""}`));
    const marked = sign?.alarm ? `; marked: ${sign.where}` : "";
    const canvas = atlas.canvas(`Mean ${name} map of ${atlas.className(state.id)}${marked}`);
    const cell = sign?.alarm ? [sign.y, sign.x] : null;
    atlas.paint(canvas, { map: sign ? atlas.bytes(mean) : null, cell, look: atlas.plain });
    const pressed = String(name === state.method);
    const choose = atlas.element("button", { type: "button", class: "choose", "aria-pressed": pressed });
    choose.append(canvas, caption);
    choose.addEventListener("click", () => atlas.go({ method: name }));
    return atlas.element("div", {}, choose);
  }

  function cluster(each, number, told, method, state) {
    const { name } = atlas.about.methods[method];
    const prototype = atlas.canvas(`Prototype of cluster ${number + 1} of ${name} maps`);
    const cell = told.sign.alarm ? [told.sign.y, told.sign.x] : null;
    atlas.paint(prototype, { map: atlas.bytes(each.prototype), cell, look: atlas.plain });
    const of = told.clusters.reduce((sum, other) => sum + other.maps, 0);
    const share = atlas.percent(each.maps / of);
    const text = `${each.maps} maps, ${share}; the place stands out of ${atlas.percent(each.outlier_share)}`;
    const found = atlas.element("figure", {}, prototype);
    const image = atlas.place(each.central_row);
    if (image >= 0) {
      const { pictures, target } = atlas.about;
      const opens = (attributes, content) => {
        const button = atlas.element("button", { type: "button", "data-row": each.central_row, ...attributes }, content);
        button.addEventListener("click", () => atlas.go({ row: each.central_row }));
        return button;
      };
      const central = (label, look, cell) => {
        const canvas = atlas.canvas(label);
        atlas.paintImage(canvas, image, method, atlas.targetNumber(target), look, cell).catch(atlas.trouble);
        return opens({ class: "open", "aria-label": `Open the ${label} of cluster ${number + 1}` }, canvas);
      };
      found.append(central(`central ${pictures ? "image" : "map"}`, atlas.look(state), null));
      if (pictures) found.append(central("central image, here without a map,", atlas.pictureOnly, cell));
      const key = opens({ class: "key" }, atlas.images.keys[image]);
      found.append(atlas.element("figcaption", {}, text, atlas.element("br"), key));
    } else found.append(atlas.element("figcaption", {}, text));
    return found;
  }

  function numbers(told) {
    const { methods, overall } = atlas.about;
    const names = atlas.about.numbers;
    const rows = methods.flatMap(({ name }, method) => {
      const own = told.methods[method]?.numbers;
      const both = (_, at) => `${atlas.told(own[at], 2)} / ${atlas.told(overall[method][at], 2)}`;
      return own ? [[name, ...names.map(both)]] : [];
    });
    const head = ["method", ...names.map((name) => name.replaceAll("_", " "))];
    atlas.numbersTable(by("class-numbers"), "Mean of the class / of all classes", head, rows);
  }

  let [turn, shown] = [0, ""];
  atlas.showClass = async (state) => {
    const { id, method: name, show, cut, alpha } = state;
    const wanted = [id, name, show, cut, alpha].join(" ");
    const mine = ++turn;
    if (wanted === shown) return;
    const told = await atlas.ofClass(state.id);
    if (mine !== turn) return;
    shown = wanted;
    const choosing = by("class-means").contains(document.activeElement);
    by("class-title").textContent = atlas.className(state.id);
    const images = { ...state, view: "gallery", class: String(id), page: 0, id: -1 };
    const link = atlas.element("a", { href: atlas.format(images) }, "its images");
    by("class-about").replaceChildren(
      `${told.images.toLocaleString("en")} images, accuracy ${atlas.percent(told.correct)} · `, link,
    );
    const there = atlas.about.methods.map((_, method) => method).filter((method) => told.methods[method]);
    by("class-means").replaceChildren(...there.map((method) => mean(told.methods[method], method, state)));
    if (choosing) by("class-means").querySelector("[aria-pressed=true]")?.focus();
    const method = atlas.methodNumber(state.method);
    const chosen = told.methods[method];
    by("class-clusters-title").textContent = `Clusters of ${state.method} maps`;
    by("class-clusters").replaceChildren(
      ...(chosen?.clusters ?? []).map((each, number) => cluster(each, number, chosen, method, state)),
    );
    numbers(told);
  };
})();
