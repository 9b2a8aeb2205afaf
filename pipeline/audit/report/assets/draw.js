"use strict";
// Maps on canvases: enlarged bilinearly over what the network saw, by the one colour map.

(() => {
  const scratch = document.createElement("canvas");
  const known = new Map();

  // Along one axis: the cells before and after each pixel, and the share of the latter.
  function taps(length, cells) {
    const name = `${length} ${cells}`;
    if (!known.has(name)) {
      const [low, high, part] = [new Uint16Array(length), new Uint16Array(length), new Float32Array(length)];
      for (let pixel = 0; pixel < length; pixel++) {
        const at = Math.min(Math.max(((pixel + 0.5) / length) * cells - 0.5, 0), cells - 1);
        low[pixel] = Math.floor(at);
        high[pixel] = Math.min(low[pixel] + 1, cells - 1);
        part[pixel] = at - low[pixel];
      }
      known.set(name, { low, high, part });
    }
    return known.get(name);
  }

  function enlarge(map, width, height) {
    const [rows, columns] = atlas.about.grid;
    const [down, across] = [taps(height, rows), taps(width, columns)];
    const found = new Float32Array(width * height);
    for (let y = 0; y < height; y++) {
      const [above, below, share] = [down.low[y] * columns, down.high[y] * columns, down.part[y]];
      for (let x = 0; x < width; x++) {
        const [left, right, part] = [across.low[x], across.high[x], across.part[x]];
        const first = map[above + left] + (map[above + right] - map[above + left]) * part;
        const second = map[below + left] + (map[below + right] - map[below + left]) * part;
        found[y * width + x] = first + (second - first) * share;
      }
    }
    return found;
  }

  // Pixels of what lies over the picture: RGBA.
  function overlay(map, width, height, { show, cut, alpha }) {
    const values = enlarge(map, width, height);
    const pixels = new ImageData(width, height);
    const [data, colours, level, opacity] = [pixels.data, atlas.about.colours, cut * 255, Math.round(alpha * 255)];
    for (let pixel = 0; pixel < values.length; pixel++) {
      const at = 4 * pixel;
      if (show === "mask") {
        data[at + 3] = values[pixel] > level ? 0 : 190;
      } else {
        const colour = 3 * Math.round(values[pixel]);
        data[at] = colours[colour];
        data[at + 1] = colours[colour + 1];
        data[at + 2] = colours[colour + 2];
        data[at + 3] = opacity;
      }
    }
    if (show === "mask" || show === "outline") outline(values, data, width, height, level);
    return pixels;
  }

  // Where a mask ends: white within, black without, so that it is seen on any ground.
  function outline(values, data, width, height, level) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const pixel = y * width + x;
        const inside = values[pixel] > level;
        const differs = (other) => values[other] > level !== inside;
        if (
          (x > 0 && differs(pixel - 1)) || (x + 1 < width && differs(pixel + 1)) ||
          (y > 0 && differs(pixel - width)) || (y + 1 < height && differs(pixel + width))
        ) {
          data.fill(inside ? 255 : 0, 4 * pixel, 4 * pixel + 3);
          data[4 * pixel + 3] = inside ? 255 : 160;
        }
      }
    }
  }

  // On a plain picture a thin frame around the cell, that hides nothing of it.
  function mark(context, cell, width, height, thin) {
    const [rows, columns] = atlas.about.grid;
    const [high, wide] = [height / rows, width / columns];
    const inset = thin ? -1 : 1.5;
    const box = [cell[1] * wide + inset, cell[0] * high + inset, wide - 2 * inset, high - 2 * inset];
    for (const [colour, line] of [["#000", thin ? 3 : 5], ["#fff", thin ? 1.5 : 2.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.strokeRect(...box);
    }
  }

  // picture: ImageBitmap or null; map: uint8 cells or null; cell: [y, x] or null.
  atlas.paint = (canvas, { picture = null, map = null, cell = null, look }) => {
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    context.fillStyle = "#8a8f98";
    context.fillRect(0, 0, width, height);
    if (picture) context.drawImage(picture, 0, 0, width, height);
    if (map && look.show !== "picture") {
      [scratch.width, scratch.height] = [width, height];
      scratch.getContext("2d").putImageData(overlay(map, width, height, look), 0, 0);
      context.drawImage(scratch, 0, 0);
    }
    if (cell) mark(context, cell, width, height, look.show === "picture");
    canvas.dataset.drawn = "";
  };

  // Without a picture below it a map is drawn as it is.
  atlas.plain = { show: "map", cut: 0.5, alpha: 1 };
  atlas.pictureOnly = { ...atlas.plain, show: "picture" };
  atlas.look = (state) => ({ show: state.show, cut: state.cut, alpha: atlas.about.pictures ? state.alpha : 1 });

  atlas.picture = async (shard, place) => {
    const data = shard.thumbnail(place);
    return data && createImageBitmap(new Blob([data], { type: "image/jpeg" }));
  };

  // An image of the index with the map of a method; says whether that says anything.
  atlas.paintImage = async (canvas, image, method, target, look, cell = null) => {
    const place = atlas.images.place[image];
    const shard = await atlas.ofShard(atlas.images.shard[image]);
    const picture = await atlas.picture(shard, place);
    const map = shard.map(place, target, method);
    atlas.paint(canvas, { picture, map, cell, look });
    picture?.close();
    canvas.dataset.drawn = atlas.about.methods[method].name;
    return shard.flag(place, target, method);
  };

  atlas.paintLegend = (canvas) => {
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(256, 1);
    for (let level = 0; level < 256; level++) {
      pixels.data.set(atlas.about.colours.subarray(3 * level, 3 * level + 3), 4 * level);
      pixels.data[4 * level + 3] = 255;
    }
    for (let y = 0; y < canvas.height; y++) context.putImageData(pixels, 0, y);
  };

  atlas.canvas = (label) => {
    const [height, width] = atlas.about.frame;
    const scale = 192 / Math.max(width, height);
    const canvas = atlas.element("canvas", { role: "img", "aria-label": label });
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    return canvas;
  };
})();
