// The page: one image at a time, by keys, pointer or buttons. Text from data is only ever inserted as text.
"use strict";

const STEP = 0.02; // share of the image that an arrow key moves a box by
const find = (id) => document.getElementById(id);
const isPlain = (event) => !event.ctrlKey && !event.metaKey;

atlas.page = (page) => {
  const nameOf = new Map(page.categories.map(({ id, name }) => [id, name]));
  const annotations = new atlas.Annotations(page.images, page.info.page);
  let selected = -1;
  let saved = true;

  const say = (text) => {
    find("status").textContent = text;
  };

  const isolated = (text, className = "") => {
    const element = document.createElement("bdi");
    element.textContent = text;
    element.className = className;
    return element;
  };

  const image = () => page.images[annotations.place];

  const stage = new atlas.Stage(find("stage"), find("boxes"), {
    draw: (box) => add(box),
    edit: (index, box) => edit(index, box),
    select: (index) => select(index),
  });

  const setEntry = (entry, kind = null) => {
    saved = false;
    annotations.change([[annotations.place, entry]], kind);
    show();
  };

  const add = (drawn) => {
    const category = Number(find("class").value) || image().categories[0];
    const box = atlas.fit({ ...drawn, category }, image());
    if (!box) {
      show();
      return;
    }
    selected = annotations.entry.boxes.length;
    setEntry({ boxes: [...annotations.entry.boxes, box], none: false });
    say(`Box ${selected + 1} of ${nameOf.get(box.category)} added.`);
  };

  const edit = (index, changed, kind = null) => {
    const box = atlas.fit(changed, image());
    if (box) setEntry({ boxes: annotations.entry.boxes.with(index, box), none: false }, kind);
    else show();
  };

  const select = (index) => {
    selected = index;
    annotations.rest();
    show();
  };

  const remove = () => {
    const { boxes } = annotations.entry;
    const index = selected < 0 ? boxes.length - 1 : selected;
    if (index < 0) return;
    selected = -1;
    setEntry({ boxes: boxes.filter((_, place) => place !== index), none: false });
    say(`Box ${index + 1} deleted.`);
  };

  const toggleNone = () => {
    const { boxes, none } = annotations.entry;
    if (boxes.length) {
      say("This image has boxes; delete them first.");
      return;
    }
    setEntry({ boxes: [], none: !none });
    say(none ? "Marked as open." : "Marked: no object here.");
  };

  const undo = () => {
    selected = -1;
    const is = annotations.undo();
    saved = saved && !is;
    show();
    say(is ? "Undone." : "There is nothing to undo.");
  };

  const go = (place) => {
    annotations.place = place;
    annotations.rest();
    annotations.keep();
    selected = -1;
    show();
    find("stage").focus({ preventScroll: true });
    say("");
  };

  const next = () => {
    if (annotations.place + 1 < page.images.length) {
      go(annotations.place + 1);
      return;
    }
    const open = annotations.firstOpen(0);
    if (open < 0) say("All images are annotated: save them.");
    else if (open === annotations.place) say("This is the last open image.");
    else go(open);
  };

  const previous = () => {
    if (annotations.place > 0) go(annotations.place - 1);
    else say("This is the first image.");
  };

  const save = () => {
    const text = JSON.stringify(atlas.toCoco(page, annotations), null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "annotations.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    saved = true;
    say(`Saved ${annotations.done} of ${page.images.length} images as annotations.json.`);
  };

  const load = async () => {
    const [file] = find("load").files;
    find("load").value = "";
    if (!file) return;
    try {
      const { changes, foreign } = atlas.fromCoco(await file.text(), page);
      if (changes.length) annotations.change(changes);
      selected = -1;
      show();
      say(`Loaded ${changes.length} images${foreign ? `; ${foreign} are not images of this page` : ""}.`);
    } catch (error) {
      say(`Nothing is loaded. ${error.message}`);
    }
  };

  const nudge = (event, dx, dy) => {
    const step = event.altKey ? [1, 1] : [image().width, image().height].map((side) => Math.max(1, Math.round(STEP * side)));
    const handle = event.shiftKey ? "se" : "move";
    const box = stage.shifted(annotations.entry.boxes[selected], handle, dx * step[0], dy * step[1]);
    if (box.x1 > box.x0 && box.y1 > box.y0) edit(selected, box, `nudge ${annotations.place} ${selected}`);
  };

  const addInTheMiddle = () => {
    const { width, height } = image();
    add({ x0: width / 4, y0: height / 4, x1: Math.max((3 * width) / 4, 1), y1: Math.max((3 * height) / 4, 1) });
  };

  const selectNext = () => {
    const { length } = annotations.entry.boxes;
    if (length) select((selected + 1) % length);
  };

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const keys = {
    j: next, k: previous, b: addInTheMiddle, c: selectNext, x: remove, Delete: remove, Backspace: remove, 0: toggleNone,
    u: undo, s: save, Escape: () => select(-1),
  };

  const press = (event) => {
    const isOnControl = event.target.closest("select, input, summary");
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "z" && !isPlain(event)) undo();
    else if (isOnControl || !isPlain(event)) return;
    else if (key in arrows && selected >= 0) nudge(event, ...arrows[key]);
    else if (key === "ArrowRight") next();
    else if (key === "ArrowLeft") previous();
    else if (key === "Enter" && !event.target.closest("button")) next();
    else if (Object.hasOwn(keys, key) && !event.altKey) keys[key]();
    else return;
    event.preventDefault();
  };

  const describe = (box, index) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(index === selected));
    const size = `${box.x1 - box.x0} × ${box.y1 - box.y0} px`;
    button.append(`${index + 1}: `, isolated(nameOf.get(box.category)), `, ${size}`);
    button.addEventListener("click", () => select(index === selected ? -1 : index));
    item.append(button);
    return item;
  };

  const showImage = () => {
    const { width, height, key, categories, given } = image();
    const shown = find("image");
    const source = `images/${annotations.place}.jpg`;
    if (shown.getAttribute("src") !== source) {
      shown.src = source;
      shown.width = width;
      shown.height = height;
      shown.alt = `image ${annotations.place + 1}`;
      find("stage").style.setProperty("--ratio", String(width / height));
      const options = categories.map((id) => new Option(nameOf.get(id), String(id)));
      find("class").replaceChildren(...options);
      new Image().src = `images/${Math.min(annotations.place + 1, page.images.length - 1)}.jpg`;
    }
    const names = categories.flatMap((id, index) => [index ? ", " : "", isolated(nameOf.get(id), "class")]);
    find("title").replaceChildren(`Image ${annotations.place + 1} of ${page.images.length}: `, ...names);
    const origin = given ? "label" : "predicted, there is no label";
    find("about").replaceChildren(isolated(key, "key"), ` ${width} × ${height} pixels · class: ${origin}`);
    find("class-field").hidden = categories.length < 2;
  };

  const show = () => {
    const { boxes, none } = annotations.entry;
    showImage();
    stage.show(image(), boxes, selected);
    if (selected >= 0) find("class").value = String(boxes[selected].category);
    find("list").replaceChildren(...boxes.map(describe));
    find("boxes-title").textContent = boxes.length ? `Boxes (${boxes.length})` : none ? "No object here" : "No boxes yet";
    find("none").setAttribute("aria-pressed", String(none));
    find("none").disabled = boxes.length > 0;
    find("delete").disabled = boxes.length === 0;
    find("undo").disabled = annotations.history.length === 0;
    find("previous").disabled = annotations.place === 0;
    find("count").textContent = `${annotations.done} of ${page.images.length} done`;
    find("progress").max = page.images.length;
    find("progress").value = annotations.done;
    find("notice").hidden = annotations.kept;
    if (!annotations.kept) find("notice").textContent = "This browser keeps nothing of this page: save before you close it.";
  };

  const changeClass = () => {
    if (selected >= 0) edit(selected, { ...annotations.entry.boxes[selected], category: Number(find("class").value) });
  };

  for (const [id, action] of Object.entries({ previous, next, undo, delete: remove, none: toggleNone, save })) {
    find(id).addEventListener("click", action);
  }
  find("load").addEventListener("change", load);
  find("class").addEventListener("change", changeClass);
  find("image").addEventListener("error", () => say(`The file ${find("image").getAttribute("src")} cannot be shown.`));
  document.addEventListener("keydown", press);
  addEventListener("beforeunload", (event) => {
    if (!saved && !annotations.kept) event.preventDefault();
  });
  annotations.restore();
  show();
  find("stage").focus({ preventScroll: true });
  document.body.dataset.ready = "";
};
