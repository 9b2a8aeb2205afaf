"use strict";
// Cards of a page of images. Maps and thumbnails are loaded as cards come into view, and dropped as they leave it.

(() => {
  const PAGE_SIZE = 60;
  const cards = new Map();
  const visible = new Set();
  let [shown, state, request] = [[], null, 0];
  atlas.selected = [];

  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) visible.add(target);
        else visible.delete(target);
        if (isIntersecting) draw(target);
        else clear(target);
      }
    },
    { rootMargin: "200px" },
  );

  async function draw(card) {
    const { image, canvas, note } = cards.get(card);
    const method = atlas.methodIndex(state.method);
    const current = (card.request = (card.request ?? 0) + 1);
    const buffer = document.createElement("canvas"); // a slow, outdated result must not replace a newer one
    [buffer.width, buffer.height] = [canvas.width, canvas.height];
    try {
      const flag = await atlas.paintImage(buffer, image, method, atlas.targetIndex(state.target), atlas.appearance(state));
      if (card.request !== current || !visible.has(card)) return;
      canvas.getContext("2d").drawImage(buffer, 0, 0);
      canvas.dataset.drawn = state.method;
      canvas.setAttribute("aria-label", `${state.method} map of ${atlas.images.keys[image]}`);
      note.textContent = flag ? `degenerate: ${atlas.about.flags[flag]}` : "";
    } catch (error) {
      note.textContent = error.message;
    }
  }

  function clear(card) {
    const { canvas } = cards.get(card);
    card.request = (card.request ?? 0) + 1;
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    delete canvas.dataset.drawn;
  }

  function buildCard(image) {
    const { label, prediction, probability, keys, row } = atlas.images;
    const canvas = atlas.canvas(keys[image]);
    const note = atlas.element("span", { class: "flag" });
    const button = atlas.element("button", { type: "button", class: "key", "data-row": row[image] }, keys[image]);
    button.addEventListener("click", () => atlas.go({ row: row[image] }));
    const wrong = label[image] >= 0 && label[image] !== prediction[image];
    const about = atlas.element("p", {}, atlas.className(label[image] < 0 ? prediction[image] : label[image]));
    if (wrong) {
      about.append(atlas.element("span", { class: "wrong" }, ` → ${atlas.className(prediction[image])}`));
    }
    about.append(atlas.element("span", { class: "quiet" }, `\u00a0${atlas.percent(probability[image])}`));
    const item = atlas.element("li", { class: "card" }, canvas, button, about, note);
    cards.set(item, { image, canvas, note });
    return item;
  }

  function showPages() {
    const pages = Math.max(1, Math.ceil(atlas.selected.length / PAGE_SIZE));
    for (const label of document.querySelectorAll("[data-shows=pages]")) {
      label.textContent = `page ${state.page + 1} of ${pages}`;
    }
    for (const button of document.querySelectorAll("[data-page]")) {
      const target = state.page + Number(button.dataset.page);
      button.disabled = target < 0 || target >= pages;
    }
  }

  atlas.showGallery = async (wanted) => {
    const current = ++request;
    const selected = await atlas.select(wanted);
    if (current !== request) return;
    atlas.selected = selected;
    state = { ...wanted, page: Math.min(wanted.page, Math.max(0, Math.ceil(selected.length / PAGE_SIZE) - 1)) };
    const images = selected.slice(state.page * PAGE_SIZE, (state.page + 1) * PAGE_SIZE);
    const total = atlas.images.count.toLocaleString("en");
    document.getElementById("matches").textContent = `${selected.length.toLocaleString("en")} of ${total} images`;
    document.getElementById("reset").hidden = selected.length === atlas.images.count;
    showPages();
    if (images.length === shown.length && images.every((image, place) => image === shown[place])) {
      for (const card of visible) draw(card);
      return;
    }
    observer.disconnect();
    cards.clear();
    visible.clear();
    shown = images;
    document.getElementById("cards").replaceChildren(...images.map(buildCard));
    for (const card of cards.keys()) observer.observe(card);
  };
})();
