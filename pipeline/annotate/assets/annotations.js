// What has been annotated: boxes of each image, undo, and what the browser keeps.
"use strict";

// eslint-disable-next-line no-unused-vars
const atlas = {};

/**
 * An entry is {boxes: [{x0, y0, x1, y1, category}], none}: whole pixels of the image, ends exclusive; none says that
 * somebody has looked and there is no object.
 */
atlas.Annotations = class {
  constructor(images, name) {
    this.images = images;
    this.name = `vit-atlas-annotate ${name}`;
    this.entries = images.map(() => ({ boxes: [], none: false }));
    this.place = 0;
    this.history = [];
    this.kept = true;
  }

  get entry() {
    return this.entries[this.place];
  }

  isDone(place) {
    const { boxes, none } = this.entries[place];
    return none || boxes.length > 0;
  }

  get done() {
    return this.entries.filter((_, place) => this.isDone(place)).length;
  }

  /** The first image from the given place on, around the end, that is not annotated; -1 if all are. */
  firstOpen(from) {
    const order = this.entries.map((_, step) => (from + step) % this.entries.length);
    return order.find((place) => !this.isDone(place)) ?? -1;
  }

  /** Replace entries, which undo takes back at once. Edits of one kind in a row, as of a held key, are one. */
  change(changes, kind = null) {
    const last = this.history.at(-1);
    if (kind === null || last?.kind !== kind) {
      this.history.push({ kind, place: this.place, before: changes.map(([place]) => [place, this.entries[place]]) });
    }
    for (const [place, entry] of changes) this.entries[place] = entry;
    this.keep();
  }

  /** End a row of edits, so that the next one is an edit of its own. */
  rest() {
    const last = this.history.at(-1);
    if (last) last.kind = null;
  }

  undo() {
    const last = this.history.pop();
    if (!last) return false;
    for (const [place, entry] of last.before) this.entries[place] = entry;
    this.place = last.place;
    this.keep();
    return true;
  }

  keep() {
    try {
      localStorage.setItem(this.name, JSON.stringify({ place: this.place, entries: this.entries }));
      this.kept = true;
    } catch {
      this.kept = false;
    }
  }

  /** Take over what the browser has kept. Anything may stand there, so all of it is checked. */
  restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.name) ?? "null");
      if (kept === null) return;
      this.entries = this.images.map((image, place) => atlas.checkEntry(kept.entries?.[place], image) ?? this.entries[place]);
      if (Number.isInteger(kept.place) && this.images[kept.place]) this.place = kept.place;
    } catch {
      this.kept = false;
    }
  }
};

/** Return an entry with only what fits its image; null if it is none. */
atlas.checkEntry = (entry, image) => {
  if (typeof entry !== "object" || entry === null || !Array.isArray(entry.boxes)) return null;
  const boxes = entry.boxes.map((box) => atlas.fit(box, image)).filter((box) => box !== null);
  return { boxes, none: boxes.length === 0 && entry.none === true };
};

/** Return a box in whole pixels within its image, of a class of the image; null without an area. */
atlas.fit = (box, { width, height, categories }) => {
  const clip = (value, limit) => Math.round(Math.min(Math.max(Number(value), 0), limit));
  const [x0, x1] = [clip(box?.x0, width), clip(box?.x1, width)].sort((a, b) => a - b);
  const [y0, y1] = [clip(box?.y0, height), clip(box?.y1, height)].sort((a, b) => a - b);
  const category = categories.includes(box?.category) ? box.category : categories[0];
  return x1 > x0 && y1 > y0 ? { x0, y0, x1, y1, category } : null;
};
