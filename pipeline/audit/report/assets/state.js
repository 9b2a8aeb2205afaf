"use strict";
// What is shown, and the part of the address that says so: a view can be sent to somebody.

(() => {
  // Elements without any HTML from data: values are attributes and text.
  atlas.element = (tag, attributes = {}, ...children) => {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) found.setAttribute(name, value);
    found.append(...children);
    return found;
  };

  const numbers = { cut: [0, 1], alpha: [0, 1], page: [0, Infinity], row: [-1, Infinity], id: [-1, Infinity] };
  const flags = ["wrong", "apart", "empty"];

  function defaults() {
    const { methods, target } = atlas.about;
    return {
      view: "overview", method: (methods.find((each) => !each.control) ?? methods[0]).name, target,
      show: "outline", cut: 0.5, alpha: 0.6, class: "", wrong: false, apart: false, empty: false, q: "", sort: "row",
      measure: "spearman", page: 0, row: -1, id: -1, theme: "",
    };
  }

  const choices = () => ({
    view: ["overview", "gallery", "classes", "class"],
    method: atlas.about.methods.map((each) => each.name),
    target: atlas.about.targets,
    show: [...document.querySelectorAll("#gallery-show option")].map((each) => each.value),
    sort: [...document.querySelectorAll("#pick-sort option")].map((each) => each.value),
    class: [...document.querySelectorAll("#pick-class option")].map((each) => each.value),
    measure: [...document.querySelectorAll("#measure option")].map((each) => each.value),
    theme: ["", "light", "dark"],
  });

  // An address may be anybody's: what is not among the choices is as if it were not there.
  atlas.parse = (hash) => {
    const [given, found, allowed] = [new URLSearchParams(hash.replace(/^#/, "")), defaults(), choices()];
    for (const [name, text] of given) {
      if (name in numbers) {
        const [low, high] = numbers[name];
        const value = text === "" ? NaN : Number(text);
        if (name === "id" && !allowed.class.includes(text)) continue;
        if (value >= low && value <= high) found[name] = name in { cut: 1, alpha: 1 } ? value : Math.floor(value);
      } else if (flags.includes(name)) found[name] = text === "1";
      else if (name === "q") found.q = text;
      else if (allowed[name]?.includes(text)) found[name] = text;
    }
    return found;
  };

  atlas.format = (state) => {
    const usual = defaults();
    const told = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) {
      if (value !== usual[name]) told.set(name, value === true ? "1" : String(value));
    }
    return `#${told}`;
  };

  atlas.methodNumber = (name) => atlas.about.methods.findIndex((each) => each.name === name);
  atlas.targetNumber = (name) => atlas.about.targets.indexOf(name);
  atlas.className = (index) => (index < 0 ? "none" : atlas.about.classes[index] ?? `class ${index}`);
  atlas.told = (value, digits = 3) => {
    if (value === null || Number.isNaN(value)) return "–";
    const rounded = Number(value.toFixed(digits)) + 0; // without the sign of a zero
    return rounded.toFixed(digits).replace("-", "−");
  };
  atlas.percent = (value) => (value === null || Number.isNaN(value) ? "–" : `${(100 * value).toFixed(0)}\u00a0%`);
})();
