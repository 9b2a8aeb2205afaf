"use strict";
// Maps on canvases: enlarged bilinearly over the image, in one color map.

(() => {
  const scratch = document.createElement("canvas");
  const tapsBySize = new Map();

  // Along one axis: the cells before and after each pixel, and the weight of the latter.
  function taps(length, cells) {
    const name = `${length} ${cells}`;
    if (!tapsBySize.has(name)) {
      const [low, high, weight] = [new Uint16Array(length), new Uint16Array(length), new Float32Array(length)];
      for (let pixel = 0; pixel < length; pixel++) {
        const position = Math.min(Math.max(((pixel + 0.5) / length) * cells - 0.5, 0), cells - 1);
        low[pixel] = Math.floor(position);
        high[pixel] = Math.min(low[pixel] + 1, cells - 1);
        weight[pixel] = position - low[pixel];
      }
      tapsBySize.set(name, { low, high, weight });
    }
    return tapsBySize.get(name);
  }

  function enlarge(map, width, height) {
    const [rows, columns] = atlas.about.grid;
    const [down, across] = [taps(height, rows), taps(width, columns)];
    const values = new Float32Array(width * height);
    for (let y = 0; y < height; y++) {
      const [above, below, share] = [down.low[y] * columns, down.high[y] * columns, down.weight[y]];
      for (let x = 0; x < width; x++) {
        const [left, right, weight] = [across.low[x], across.high[x], across.weight[x]];
        const first = map[above + left] + (map[above + right] - map[above + left]) * weight;
        const second = map[below + left] + (map[below + right] - map[below + left]) * weight;
        values[y * width + x] = first + (second - first) * share;
      }
    }
    return values;
  }

  // RGBA pixels that are drawn over the image.
  function overlay(map, width, height, { show, threshold, opacity }) {
    const values = enlarge(map, width, height);
    const pixels = new ImageData(width, height);
    const [data, colors, level, alpha] = [pixels.data, atlas.about.colors, threshold * 255, Math.round(opacity * 255)];
    for (let pixel = 0; pixel < values.length; pixel++) {
      const offset = 4 * pixel;
      if (show === "mask") {
        data[offset + 3] = values[pixel] > level ? 0 : 190;
      } else {
        const color = 3 * Math.round(values[pixel]);
        data[offset] = colors[color];
        data[offset + 1] = colors[color + 1];
        data[offset + 2] = colors[color + 2];
        data[offset + 3] = alpha;
      }
    }
    if (show === "mask" || show === "outline") outline(values, data, width, height, level);
    return pixels;
  }

  // The edge of a mask: white inside, black outside, so that it is visible on any background.
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

  // On an image without a map the frame is thin and outside of the cell, so that it hides nothing.
  function mark(context, cell, width, height, thin) {
    const [rows, columns] = atlas.about.grid;
    const [high, wide] = [height / rows, width / columns];
    const inset = thin ? -1 : 1.5;
    const box = [cell[1] * wide + inset, cell[0] * high + inset, wide - 2 * inset, high - 2 * inset];
    for (const [color, line] of [["#000", thin ? 3 : 5], ["#fff", thin ? 1.5 : 2.5]]) {
      context.strokeStyle = color;
      context.lineWidth = line;
      context.strokeRect(...box);
    }
  }

  // image: ImageBitmap or null; map: uint8 cells or null; cell: [y, x] or null; appearance: show, threshold, opacity.
  atlas.paint = (canvas, { image = null, map = null, cell = null, appearance }) => {
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    context.fillStyle = "#8a8f98";
    context.fillRect(0, 0, width, height);
    if (image) context.drawImage(image, 0, 0, width, height);
    if (map && appearance.show !== "image") {
      [scratch.width, scratch.height] = [width, height];
      scratch.getContext("2d").putImageData(overlay(map, width, height, appearance), 0, 0);
      context.drawImage(scratch, 0, 0);
    }
    if (cell) mark(context, cell, width, height, appearance.show === "image");
    canvas.dataset.drawn = "";
  };

  // Without an image below it a map is opaque.
  atlas.mapOnly = { show: "map", threshold: 0.5, opacity: 1 };
  atlas.imageOnly = { ...atlas.mapOnly, show: "image" };
  atlas.appearance = (state) => ({ show: state.show, threshold: state.threshold, opacity: atlas.about.thumbnails ? state.opacity : 1 });

  atlas.loadThumbnail = async (chunk, place) => {
    const data = chunk.thumbnail(place);
    return data && createImageBitmap(new Blob([data], { type: "image/jpeg" }));
  };

  // Paint an image of the index with the map of a method; returns the flag of the map.
  atlas.paintImage = async (canvas, image, method, target, appearance, cell = null) => {
    const place = atlas.images.place[image];
    const chunk = await atlas.loadChunk(atlas.images.chunk[image]);
    const thumbnail = await atlas.loadThumbnail(chunk, place);
    const map = chunk.map(place, target, method);
    atlas.paint(canvas, { image: thumbnail, map, cell, appearance });
    thumbnail?.close();
    canvas.dataset.drawn = atlas.about.methods[method].name;
    return chunk.flag(place, target, method);
  };

  atlas.paintLegend = (canvas) => {
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(256, 1);
    for (let level = 0; level < 256; level++) {
      pixels.data.set(atlas.about.colors.subarray(3 * level, 3 * level + 3), 4 * level);
      pixels.data[4 * level + 3] = 255;
    }
    for (let y = 0; y < canvas.height; y++) context.putImageData(pixels, 0, y);
  };

  atlas.canvas = (label) => {
    const [height, width] = atlas.about.inputSize;
    const scale = 192 / Math.max(width, height);
    const canvas = atlas.element("canvas", { role: "img", "aria-label": label });
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    return canvas;
  };
})();
