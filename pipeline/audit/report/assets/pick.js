"use strict";
// Which images, in which order: from columns alone, so that fifty thousand take no time.

(() => {
  function predicate(state, method) {
    const { label, prediction, agreement, keys, count } = atlas.images;
    const tests = [];
    if (state.class !== "") {
      const index = Number(state.class);
      tests.push((image) => (label[image] < 0 ? prediction[image] : label[image]) === index);
    }
    if (state.wrong) tests.push((image) => label[image] >= 0 && label[image] !== prediction[image]);
    if (state.apart) tests.push((image) => agreement[image] <= atlas.about.disagreement);
    if (state.empty) {
      const begin = atlas.targetNumber(state.target) * count;
      tests.push((image) => method.flags[begin + image] !== 0);
    }
    if (state.q) {
      const wanted = state.q.toLowerCase();
      tests.push((image) => keys[image].toLowerCase().includes(wanted));
    }
    return (image) => tests.every((test) => test(image));
  }

  // Images of no value come last, whichever way it goes; equal ones stay in the order of their rows.
  function order(images, state, method) {
    if (state.sort === "row") return images;
    const sign = state.sort.startsWith("-") ? -1 : 1;
    const name = state.sort.replace(/^-/, "");
    const column = name.startsWith("m.") ? method[name.slice(2)] : atlas.images[name];
    const key = (image) => (Number.isNaN(column[image]) ? Infinity : sign * column[image]);
    return images.sort((one, other) => key(one) - key(other) || one - other);
  }

  atlas.pick = async (state) => {
    const needed = state.empty || state.sort.includes("m.");
    const method = needed ? await atlas.ofMethod(atlas.methodNumber(state.method)) : null;
    const wanted = predicate(state, method);
    const found = [];
    for (let image = 0; image < atlas.images.count; image++) if (wanted(image)) found.push(image);
    return order(found, state, method);
  };
})();
