// The image with its boxes: drawing, moving and resizing by pointer.
"use strict";

const SHORT_DRAG = 6; // pixels of the screen; a shorter one is a click
const HANDLES = { nw: ["x0", "y0"], ne: ["x1", "y0"], sw: ["x0", "y1"], se: ["x1", "y1"], move: ["x0", "y0", "x1", "y1"] };

/**
 * Boxes over an image. `events` has draw(box), edit(index, box) and select(index or -1), called when a drag ends.
 */
atlas.Stage = class {
  constructor(stage, layer, events) {
    Object.assign(this, { stage, layer, events, boxes: [], selected: -1, drag: null });
    this.image = { width: 1, height: 1 };
    stage.addEventListener("pointerdown", (event) => this.begin(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    stage.addEventListener("pointerup", (event) => this.end(event));
    stage.addEventListener("pointercancel", () => this.cancel());
  }

  show(image, boxes, selected) {
    Object.assign(this, { image, boxes, selected, drag: null });
    this.draw();
  }

  draw(preview = null) {
    const boxes = preview ? preview.boxes : this.boxes;
    const selected = preview ? preview.selected : this.selected;
    this.layer.replaceChildren(...boxes.map((box, index) => this.element(box, index === selected)));
  }

  element(box, isSelected) {
    const element = document.createElement("div");
    element.className = isSelected ? "box selected" : "box";
    const percent = (value, of) => `${(100 * value) / of}%`;
    element.style.left = percent(box.x0, this.image.width);
    element.style.top = percent(box.y0, this.image.height);
    element.style.width = percent(box.x1 - box.x0, this.image.width);
    element.style.height = percent(box.y1 - box.y0, this.image.height);
    if (isSelected) {
      for (const name of Object.keys(HANDLES)) {
        const handle = document.createElement("div");
        handle.className = `handle ${name}`;
        handle.dataset.handle = name;
        element.append(handle);
      }
    }
    return element;
  }

  /** The pointer in pixels of the image, within it. */
  point(event) {
    const { left, top, width, height } = this.layer.getBoundingClientRect();
    const clip = (value, limit) => Math.min(Math.max(value, 0), limit);
    return {
      x: clip(((event.clientX - left) / width) * this.image.width, this.image.width),
      y: clip(((event.clientY - top) / height) * this.image.height, this.image.height),
    };
  }

  begin(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    const handle = event.target.dataset.handle ?? null;
    this.drag = { handle, start: this.point(event), screen: [event.clientX, event.clientY], box: null };
  }

  move(event) {
    if (!this.drag) return;
    const { handle, start, screen } = this.drag;
    const { x, y } = this.point(event);
    const isShort = Math.hypot(event.clientX - screen[0], event.clientY - screen[1]) < SHORT_DRAG;
    if (handle) {
      this.drag.box = this.shifted(this.boxes[this.selected], handle, x - start.x, y - start.y);
      this.draw({ boxes: this.boxes.with(this.selected, this.drag.box), selected: this.selected });
    } else {
      const box = { x0: Math.min(start.x, x), y0: Math.min(start.y, y), x1: Math.max(start.x, x), y1: Math.max(start.y, y) };
      this.drag.box = isShort ? null : box;
      this.draw(isShort ? null : { boxes: [...this.boxes, box], selected: this.boxes.length });
    }
  }

  /** A box of which some sides are shifted; a whole box stops at the edges of the image. */
  shifted(box, handle, dx, dy) {
    if (handle === "move") {
      dx = Math.min(Math.max(dx, -box.x0), this.image.width - box.x1);
      dy = Math.min(Math.max(dy, -box.y0), this.image.height - box.y1);
    }
    const changed = { ...box };
    for (const side of HANDLES[handle]) changed[side] += side.startsWith("x") ? dx : dy;
    return changed;
  }

  end(event) {
    if (!this.drag) return;
    this.move(event);
    const { handle, start, box } = this.drag;
    this.drag = null;
    if (box && handle) this.events.edit(this.selected, box);
    else if (box) this.events.draw(box);
    else this.events.select(this.at(start));
  }

  cancel() {
    this.drag = null;
    this.draw();
  }

  /** The smallest box at a point; -1 if there is none. */
  at({ x, y }) {
    const area = ({ x0, y0, x1, y1 }) => (x1 - x0) * (y1 - y0);
    const inside = this.boxes.filter(({ x0, y0, x1, y1 }) => x >= x0 && x <= x1 && y >= y0 && y <= y1);
    return this.boxes.indexOf(inside.sort((a, b) => area(a) - area(b))[0]);
  }
};
