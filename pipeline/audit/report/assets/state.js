"use strict";
// The state of the page and its encoding in the address, so that a view can be shared.

(() => {
  // Build an element from attributes and text, never from HTML, since data may hold anything.
  atlas.element = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const numbers = { threshold: [0, 1], opacity: [0, 1], page: [0, Infinity], row: [-1, Infinity], id: [-1, Infinity] };
  const flags = ["wrong", "disagreement", "degenerate"];

  function defaults() {
    const { methods, target } = atlas.about;
    return {
      view: "overview", method: (methods.find((method) => !method.control) ?? methods[0]).name, target,
      show: "outline", threshold: 0.5, opacity: 0.6, class: "", wrong: false, disagreement: false, degenerate: false, q: "", sort: "row",
      metric: "spearman", page: 0, row: -1, id: -1, theme: "",
    };
  }

  const choices = () => ({
    view: ["overview", "gallery", "classes", "class"],
    method: atlas.about.methods.map((method) => method.name),
    target: atlas.about.targets,
    show: [...document.querySelectorAll("#gallery-show option")].map((option) => option.value),
    sort: [...document.querySelectorAll("#filter-sort option")].map((option) => option.value),
    class: [...document.querySelectorAll("#filter-class option")].map((option) => option.value),
    metric: [...document.querySelectorAll("#metric option")].map((option) => option.value),
    theme: ["", "light", "dark"],
  });

  // Addresses are not trusted: values that are not among the choices are ignored.
  atlas.parse = (hash) => {
    const [parameters, state, allowed] = [new URLSearchParams(hash.replace(/^#/, "")), defaults(), choices()];
    for (const [name, text] of parameters) {
      if (name in numbers) {
        const [low, high] = numbers[name];
        const value = text === "" ? NaN : Number(text);
        if (name === "id" && !allowed.class.includes(text)) continue;
        if (value >= low && value <= high) state[name] = name in { threshold: 1, opacity: 1 } ? value : Math.floor(value);
      } else if (flags.includes(name)) state[name] = text === "1";
      else if (name === "q") state.q = text;
      else if (allowed[name]?.includes(text)) state[name] = text;
    }
    return state;
  };

  atlas.format = (state) => {
    const initial = defaults();
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) {
      if (value !== initial[name]) parameters.set(name, value === true ? "1" : String(value));
    }
    return `#${parameters}`;
  };

  atlas.methodIndex = (name) => atlas.about.methods.findIndex((method) => method.name === name);
  atlas.targetIndex = (name) => atlas.about.targets.indexOf(name);
  atlas.className = (index) => (index < 0 ? "none" : atlas.about.classes[index] ?? `class ${index}`);
  atlas.formatNumber = (value, digits = 3) => {
    if (value === null || Number.isNaN(value)) return "–";
    const rounded = Number(value.toFixed(digits)) + 0; // + 0 removes the sign of a zero
    return rounded.toFixed(digits).replace("-", "−");
  };
  atlas.percent = (value) => (value === null || Number.isNaN(value) ? "–" : `${(100 * value).toFixed(0)}\u00a0%`);
})();
