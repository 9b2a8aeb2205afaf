"use strict";
// Cards of a page of images. Maps and pictures are loaded as cards come into view, and dropped as they leave it.

(() => {
  const PAGE = 60;
  const cards = new Map();
  const visible = new Set();
  let [shown, state, turn] = [[], null, 0];
  atlas.picked = [];

  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) visible.add(target);
        else visible.delete(target);
        if (isIntersecting) draw(target);
        else wipe(target);
      }
    },
    { rootMargin: "200px" },
  );

  async function draw(card) {
    const { image, canvas, note } = cards.get(card);
    const method = atlas.methodNumber(state.method);
    const drawn = (card.turn = (card.turn ?? 0) + 1);
    const fresh = document.createElement("canvas"); // what is slow and late must not be seen after what was asked later
    [fresh.width, fresh.height] = [canvas.width, canvas.height];
    try {
      const flag = await atlas.paintImage(fresh, image, method, atlas.targetNumber(state.target), atlas.look(state));
      if (card.turn !== drawn || !visible.has(card)) return;
      canvas.getContext("2d").drawImage(fresh, 0, 0);
      canvas.dataset.drawn = state.method;
      canvas.setAttribute("aria-label", `${state.method} map of ${atlas.images.keys[image]}`);
      note.textContent = flag ? `says nothing: ${atlas.about.flags[flag]}` : "";
    } catch (error) {
      note.textContent = error.message;
    }
  }

  function wipe(card) {
    const { canvas } = cards.get(card);
    card.turn = (card.turn ?? 0) + 1;
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    delete canvas.dataset.drawn;
  }

  function card(image) {
    const { label, prediction, probability, keys, row } = atlas.images;
    const canvas = atlas.canvas(keys[image]);
    const note = atlas.element("span", { class: "says" });
    const button = atlas.element("button", { type: "button", class: "key", "data-row": row[image] }, keys[image]);
    button.addEventListener("click", () => atlas.go({ row: row[image] }));
    const wrong = label[image] >= 0 && label[image] !== prediction[image];
    const about = atlas.element("p", {}, atlas.className(label[image] < 0 ? prediction[image] : label[image]));
    if (wrong) {
      about.append(atlas.element("span", { class: "wrong" }, ` → ${atlas.className(prediction[image])}`));
    }
    about.append(atlas.element("span", { class: "quiet" }, `\u00a0${atlas.percent(probability[image])}`));
    const found = atlas.element("li", { class: "card" }, canvas, button, about, note);
    cards.set(found, { image, canvas, note });
    return found;
  }

  function tellPages() {
    const pages = Math.max(1, Math.ceil(atlas.picked.length / PAGE));
    for (const each of document.querySelectorAll("[data-shows=pages]")) {
      each.textContent = `page ${state.page + 1} of ${pages}`;
    }
    for (const each of document.querySelectorAll("[data-page]")) {
      const to = state.page + Number(each.dataset.page);
      each.disabled = to < 0 || to >= pages;
    }
  }

  atlas.showGallery = async (wanted) => {
    const mine = ++turn;
    const picked = await atlas.pick(wanted);
    if (mine !== turn) return;
    atlas.picked = picked;
    state = { ...wanted, page: Math.min(wanted.page, Math.max(0, Math.ceil(picked.length / PAGE) - 1)) };
    const images = picked.slice(state.page * PAGE, (state.page + 1) * PAGE);
    const of = atlas.images.count.toLocaleString("en");
    document.getElementById("found").textContent = `${picked.length.toLocaleString("en")} of ${of} images`;
    document.getElementById("reset").hidden = picked.length === atlas.images.count;
    tellPages();
    if (images.length === shown.length && images.every((image, place) => image === shown[place])) {
      for (const each of visible) draw(each);
      return;
    }
    observer.disconnect();
    cards.clear();
    visible.clear();
    shown = images;
    document.getElementById("cards").replaceChildren(...images.map(card));
    for (const each of cards.keys()) observer.observe(each);
  };
})();
