"use strict";
// The page of one class: its statistics, mean maps, and clusters.

(() => {
  const by = (id) => document.getElementById(id);

  function meanFigure(data, method, state) {
    const { name, control } = atlas.about.methods[method];
    const { shortcut, mean } = data;
    const caption = atlas.element("figcaption", {}, atlas.element("span", { class: "mono" }, name));
    if (control) caption.append(" ", atlas.element("span", { class: "tag" }, "control"));
    if (shortcut?.alarm) caption.append(" ", atlas.element("span", { class: "tag alarm" }, "alarm"));
    const text = shortcut ? `rank ${shortcut.rank}, excess ${atlas.formatNumber(shortcut.excess, 2)}` : "degenerate maps";
    caption.append(atlas.element("br"), atlas.element("small", {}, `${text}${shortcut?.alarm ? `, ${shortcut.place}` : ""}`));
    const marked = shortcut?.alarm ? `; marked: ${shortcut.place}` : "";
    const canvas = atlas.canvas(`Mean ${name} map of ${atlas.className(state.id)}${marked}`);
    const cell = shortcut?.alarm ? [shortcut.y, shortcut.x] : null;
    atlas.paint(canvas, { map: shortcut ? atlas.bytes(mean) : null, cell, appearance: atlas.mapOnly });
    const pressed = String(name === state.method);
    const choose = atlas.element("button", { type: "button", class: "choose", "aria-pressed": pressed });
    choose.append(canvas, caption);
    choose.addEventListener("click", () => atlas.go({ method: name }));
    return atlas.element("div", {}, choose);
  }

  function clusterFigure(cluster, number, data, method, state) {
    const { name } = atlas.about.methods[method];
    const prototype = atlas.canvas(`Prototype of cluster ${number + 1} of ${name} maps`);
    const cell = data.shortcut.alarm ? [data.shortcut.y, data.shortcut.x] : null;
    atlas.paint(prototype, { map: atlas.bytes(cluster.prototype), cell, appearance: atlas.mapOnly });
    const total = data.clusters.reduce((sum, other) => sum + other.maps, 0);
    const share = atlas.percent(cluster.maps / total);
    const text = `${cluster.maps} maps, ${share}; outliers at the place in ${atlas.percent(cluster.outlier_share)}`;
    const figure = atlas.element("figure", {}, prototype);
    const image = atlas.findImage(cluster.central_row);
    if (image >= 0) {
      const { thumbnails, target } = atlas.about;
      const openButton = (attributes, content) => {
        const button = atlas.element("button", { type: "button", "data-row": cluster.central_row, ...attributes }, content);
        button.addEventListener("click", () => atlas.go({ row: cluster.central_row }));
        return button;
      };
      const centralButton = (label, appearance, cell) => {
        const canvas = atlas.canvas(label);
        atlas.paintImage(canvas, image, method, atlas.targetIndex(target), appearance, cell).catch(atlas.showError);
        return openButton({ class: "open", "aria-label": `Open the ${label} of cluster ${number + 1}` }, canvas);
      };
      figure.append(centralButton(`central ${thumbnails ? "image" : "map"}`, atlas.appearance(state), null));
      if (thumbnails) figure.append(centralButton("central image, here without a map,", atlas.imageOnly, cell));
      const key = openButton({ class: "key" }, atlas.images.keys[image]);
      figure.append(atlas.element("figcaption", {}, text, atlas.element("br"), key));
    } else figure.append(atlas.element("figcaption", {}, text));
    return figure;
  }

  function fillStatistics(data) {
    const { methods, overall } = atlas.about;
    const names = atlas.about.statistics;
    const rows = methods.flatMap(({ name }, method) => {
      const values = data.methods[method]?.statistics;
      const cell = (_, index) => `${atlas.formatNumber(values[index], 2)} / ${atlas.formatNumber(overall[method][index], 2)}`;
      return values ? [[name, ...names.map(cell)]] : [];
    });
    const head = ["method", ...names.map((name) => name.replaceAll("_", " "))];
    atlas.fillTable(by("class-statistics"), "Mean of the class / of all classes", head, rows);
  }

  let [request, shown] = [0, ""];
  atlas.showClass = async (state) => {
    const { id, method: name, show, threshold, opacity } = state;
    const wanted = [id, name, show, threshold, opacity].join(" ");
    const current = ++request;
    if (wanted === shown) return;
    const data = await atlas.loadClass(state.id);
    if (current !== request) return;
    shown = wanted;
    const hasFocus = by("class-means").contains(document.activeElement);
    by("class-title").textContent = atlas.className(state.id);
    const images = { ...state, view: "gallery", class: String(id), page: 0, id: -1 };
    const link = atlas.element("a", { href: atlas.format(images) }, "its images");
    by("class-about").replaceChildren(
      `${data.images.toLocaleString("en")} images, accuracy ${atlas.percent(data.correct)} · `, link,
    );
    const present = atlas.about.methods.map((_, method) => method).filter((method) => data.methods[method]);
    by("class-means").replaceChildren(...present.map((method) => meanFigure(data.methods[method], method, state)));
    if (hasFocus) by("class-means").querySelector("[aria-pressed=true]")?.focus();
    const method = atlas.methodIndex(state.method);
    const chosen = data.methods[method];
    by("class-clusters-title").textContent = `Clusters of ${state.method} maps`;
    by("class-clusters").replaceChildren(
      ...(chosen?.clusters ?? []).map((cluster, number) => clusterFigure(cluster, number, chosen, method, state)),
    );
    fillStatistics(data);
  };
})();
