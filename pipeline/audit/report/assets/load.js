"use strict";
// Data comes as scripts that call atlas.meta, .index, .method, .shard and .class: a page from a disk cannot fetch.

const atlas = (() => {
  const received = new Map();

  function bytes(text) {
    const raw = atob(text);
    const found = new Uint8Array(raw.length);
    for (let place = 0; place < raw.length; place++) found[place] = raw.charCodeAt(place);
    return found;
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
        if (data === undefined) reject(new Error(`data/${path}.js holds something else`));
        else resolve(data);
      };
      script.onerror = () => {
        script.remove();
        reject(new Error(`data/${path}.js cannot be loaded; is the folder whole?`));
      };
      document.head.append(script);
    });
  }

  // Keeps what was asked for last, and forgets the rest, so that memory is bounded however far one scrolls.
  function cache(folder, decode, limit) {
    const kept = new Map();
    return (number) => {
      const found = kept.get(number) ?? load(`${folder}/${number}`).then(decode);
      found.catch(() => kept.delete(number));
      kept.delete(number);
      kept.set(number, found);
      if (kept.size > limit) kept.delete(kept.keys().next().value);
      return found;
    };
  }

  function decodeMeta(data) {
    return { ...data, colours: bytes(data.colours), cells: data.grid[0] * data.grid[1] };
  }

  function decodeIndex(data) {
    const whole = (text) => new Int32Array(bytes(text).buffer);
    return {
      count: data.count,
      keys: data.keys,
      row: new Float64Array(bytes(data.row).buffer),
      label: whole(data.label),
      prediction: whole(data.prediction),
      probability: floats(data.probability),
      labelProbability: floats(data.labelProbability),
      agreement: floats(data.agreement),
      shard: new Uint32Array(bytes(data.shard).buffer),
      place: bytes(data.place),
    };
  }

  function decodeMethod(data) {
    const { flags, ...numbers } = data;
    const found = Object.fromEntries(Object.entries(numbers).map(([name, text]) => [name, floats(text)]));
    return { flags: bytes(flags), ...found };
  }

  function decodeShard(data) {
    const { cells, methods } = atlas.about;
    const [maps, flags, numbers] = [bytes(data.maps), bytes(data.flags), floats(data.numbers)];
    const wide = methods.length * atlas.about.numbers.length;
    return {
      thumbnail: (place) => (data.thumbnails ? bytes(data.thumbnails[place]) : null),
      // Null where the map says nothing; why, says flag.
      map: (place, target, method) => {
        const at = data.blocks[place][target] * methods.length + method;
        return flags[at] ? null : maps.subarray(at * cells, (at + 1) * cells);
      },
      flag: (place, target, method) => flags[data.blocks[place][target] * methods.length + method],
      numbers: (place) => numbers.subarray(place * wide, (place + 1) * wide),
    };
  }

  const receive = (name) => (data) => void received.set(name, data);
  const receiveOne = (folder) => (number, data) => void received.set(`${folder}/${number}`, data);
  return {
    meta: receive("meta"),
    index: receive("index"),
    method: receiveOne("methods"),
    shard: receiveOne("shards"),
    class: receiveOne("classes"),
    bytes,
    start: async () => {
      atlas.about = decodeMeta(await load("meta"));
      atlas.images = decodeIndex(await load("index"));
      // Rows ascend, so that an image is found by its row.
      atlas.place = (row) => {
        let [low, high] = [0, atlas.images.count];
        while (low < high) {
          const middle = (low + high) >> 1;
          if (atlas.images.row[middle] < row) low = middle + 1;
          else high = middle;
        }
        return atlas.images.row[low] === row ? low : -1;
      };
    },
    ofMethod: cache("methods", decodeMethod, 8),
    ofShard: cache("shards", decodeShard, 96),
    ofClass: cache("classes", (data) => data, 8),
  };
})();
