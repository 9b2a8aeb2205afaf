"use strict";
// Filter and sort the images by columns alone, which is fast for fifty thousand images.

(() => {
  function predicate(state, method) {
    const { label, prediction, agreement, keys, count } = atlas.images;
    const tests = [];
    if (state.class !== "") {
      const index = Number(state.class);
      tests.push((image) => (label[image] < 0 ? prediction[image] : label[image]) === index);
    }
    if (state.wrong) tests.push((image) => label[image] >= 0 && label[image] !== prediction[image]);
    if (state.disagreement) tests.push((image) => agreement[image] <= atlas.about.disagreement);
    if (state.degenerate) {
      const begin = atlas.targetIndex(state.target) * count;
      tests.push((image) => method.flags[begin + image] !== 0);
    }
    if (state.q) {
      const wanted = state.q.toLowerCase();
      tests.push((image) => keys[image].toLowerCase().includes(wanted));
    }
    return (image) => tests.every((test) => test(image));
  }

  // Images without a value come last in both directions; ties stay in the order of their rows.
  function order(images, state, method) {
    if (state.sort === "row") return images;
    const sign = state.sort.startsWith("-") ? -1 : 1;
    const name = state.sort.replace(/^-/, "");
    const column = name.startsWith("m.") ? method[name.slice(2)] : atlas.images[name];
    const key = (image) => (Number.isNaN(column[image]) ? Infinity : sign * column[image]);
    return images.sort((a, b) => key(a) - key(b) || a - b);
  }

  atlas.select = async (state) => {
    const needed = state.degenerate || state.sort.includes("m.");
    const method = needed ? await atlas.loadMethod(atlas.methodIndex(state.method)) : null;
    const matches = predicate(state, method);
    const images = [];
    for (let image = 0; image < atlas.images.count; image++) if (matches(image)) images.push(image);
    return order(images, state, method);
  };
})();
