"use strict";
// Data comes as scripts that call atlas.meta, .index, .method, .chunk and .class: a page from a disk cannot fetch.

const atlas = (() => {
  const received = new Map();

  function bytes(text) {
    const raw = atob(text);
    const result = new Uint8Array(raw.length);
    for (let place = 0; place < raw.length; place++) result[place] = raw.charCodeAt(place);
    return result;
  }

  const floats = (text) => new Float32Array(bytes(text).buffer);

  function load(path) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${path}.js`;
      script.onload = () => {
        script.remove();
        const data = received.get(path);
        received.delete(path);
        if (data === undefined) reject(new Error(`data/${path}.js holds other data; copy the folder again`));
        else resolve(data);
      };
      script.onerror = () => {
        script.remove();
        reject(new Error(`data/${path}.js cannot be loaded; is the folder complete?`));
      };
      document.head.append(script);
    });
  }

  // A least-recently-used cache, so that memory is bounded however far one scrolls.
  function cache(folder, decode, limit) {
    const entries = new Map();
    return (number) => {
      const entry = entries.get(number) ?? load(`${folder}/${number}`).then(decode);
      entry.catch(() => entries.delete(number));
      entries.delete(number);
      entries.set(number, entry);
      if (entries.size > limit) entries.delete(entries.keys().next().value);
      return entry;
    };
  }

  function decodeMeta(data) {
    return { ...data, colors: bytes(data.colors), cells: data.grid[0] * data.grid[1] };
  }

  function decodeIndex(data) {
    const integers = (text) => new Int32Array(bytes(text).buffer);
    return {
      count: data.count,
      keys: data.keys,
      row: new Float64Array(bytes(data.row).buffer),
      label: integers(data.label),
      prediction: integers(data.prediction),
      probability: floats(data.probability),
      labelProbability: floats(data.labelProbability),
      agreement: floats(data.agreement),
      chunk: new Uint32Array(bytes(data.chunk).buffer),
      place: bytes(data.place),
    };
  }

  function decodeMethod(data) {
    const { flags, ...statistics } = data;
    const columns = Object.fromEntries(Object.entries(statistics).map(([name, text]) => [name, floats(text)]));
    return { flags: bytes(flags), ...columns };
  }

  function decodeChunk(data) {
    const { cells, methods } = atlas.about;
    const [maps, flags, statistics] = [bytes(data.maps), bytes(data.flags), floats(data.statistics)];
    const width = methods.length * atlas.about.statistics.length;
    return {
      thumbnail: (place) => (data.thumbnails ? bytes(data.thumbnails[place]) : null),
      // Null for a map without values; flag has the reason.
      map: (place, target, method) => {
        const index = data.blocks[place][target] * methods.length + method;
        return atlas.about.empty.includes(flags[index]) ? null : maps.subarray(index * cells, (index + 1) * cells);
      },
      flag: (place, target, method) => flags[data.blocks[place][target] * methods.length + method],
      statistics: (place) => statistics.subarray(place * width, (place + 1) * width),
    };
  }

  const receive = (name) => (data) => void received.set(name, data);
  const receiveNumbered = (folder) => (number, data) => void received.set(`${folder}/${number}`, data);
  return {
    meta: receive("meta"),
    index: receive("index"),
    method: receiveNumbered("methods"),
    chunk: receiveNumbered("chunks"),
    class: receiveNumbered("classes"),
    bytes,
    start: async () => {
      atlas.about = decodeMeta(await load("meta"));
      atlas.images = decodeIndex(await load("index"));
      // Rows ascend, so that an image is found by its row.
      atlas.findImage = (row) => {
        let [low, high] = [0, atlas.images.count];
        while (low < high) {
          const middle = (low + high) >> 1;
          if (atlas.images.row[middle] < row) low = middle + 1;
          else high = middle;
        }
        return atlas.images.row[low] === row ? low : -1;
      };
    },
    loadMethod: cache("methods", decodeMethod, 8),
    loadChunk: cache("chunks", decodeChunk, 96),
    loadClass: cache("classes", (data) => data, 8),
  };
})();
