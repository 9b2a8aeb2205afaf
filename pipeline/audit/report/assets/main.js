"use strict";
// From the address to what is seen, and from controls to the address.

(() => {
  const picking = ["method", "target", "class", "wrong", "apart", "empty", "q", "sort"];
  let state = null;

  atlas.trouble = (error) => {
    const place = document.getElementById("trouble");
    place.textContent = error.message;
    place.hidden = false;
  };

  // Moving a slider is no step that one wants to go back through.
  atlas.go = (changes) => {
    const next = { ...state, ...changes };
    const moves = "view" in changes || "row" in changes || "id" in changes;
    if (picking.some((name) => name in changes)) next.page = 0;
    history[moves ? "pushState" : "replaceState"](null, "", atlas.format(next));
    show(next);
  };

  function bindControls() {
    for (const control of document.querySelectorAll("[data-state]")) {
      const name = control.dataset.state;
      control.addEventListener("input", () => {
        const value = control.type === "checkbox" ? control.checked : control.value;
        atlas.go({ [name]: control.type === "range" ? Number(value) : value });
      });
    }
    for (const button of document.querySelectorAll("[data-page]")) {
      button.addEventListener("click", () => {
        atlas.go({ page: state.page + Number(button.dataset.page) });
        document.getElementById("gallery-title").scrollIntoView();
      });
    }
    document.getElementById("reset").addEventListener("click", () => {
      atlas.go({ class: "", wrong: false, apart: false, empty: false, q: "" });
    });
    document.getElementById("theme").addEventListener("click", () => {
      const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
      atlas.go({ theme: dark ? "light" : "dark" });
    });
  }

  function tellControls() {
    for (const control of document.querySelectorAll("[data-state]")) {
      const value = state[control.dataset.state];
      if (control.type === "checkbox") control.checked = value;
      else if (control.value !== String(value)) control.value = value;
    }
    for (const name of ["cut", "alpha"]) {
      for (const each of document.querySelectorAll(`[data-shows=${name}]`)) each.textContent = state[name].toFixed(2);
    }
  }

  function tellViews() {
    const shown = state.view === "class" && state.id < 0 ? "classes" : state.view;
    for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== shown;
    for (const link of document.querySelectorAll("nav [data-view]")) {
      const { view } = link.dataset;
      const here = view === shown || (view === "classes" && shown === "class");
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      link.href = atlas.format({ ...state, view, row: -1, id: -1 });
    }
    return shown;
  }

  async function show(next) {
    const moved = state && (state.view !== next.view || state.id !== next.id);
    state = next;
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    else delete document.documentElement.dataset.theme;
    tellControls();
    for (const each of document.querySelectorAll("[data-measure]")) each.hidden = each.dataset.measure !== state.measure;
    const shown = tellViews();
    if (moved) {
      window.scrollTo(0, 0);
      document.getElementById(`${shown}-title`).focus({ preventScroll: true });
    }
    try {
      if (shown === "gallery") await atlas.showGallery(state);
      if (shown === "class") await atlas.showClass(state);
      await atlas.showDetail(state);
    } catch (error) {
      atlas.trouble(error);
    }
    document.body.dataset.ready = String(Number(document.body.dataset.ready ?? 0) + 1);
  }

  // Maps that stand in the page itself, and images that are named in it, as they come into view.
  function drawStanding() {
    const observer = new IntersectionObserver((entries) => {
      for (const { target: canvas, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(canvas);
        const cell = canvas.dataset.cell?.split(" ").map(Number) ?? null;
        if (canvas.dataset.map) {
          atlas.paint(canvas, { map: atlas.bytes(canvas.dataset.map), cell, look: atlas.plain });
        } else {
          const look = { show: canvas.dataset.show ?? "map", cut: 0.5, alpha: atlas.about.pictures ? 0.45 : 1 };
          const [method, target] = [atlas.methodNumber(canvas.dataset.method), atlas.targetNumber(atlas.about.target)];
          const image = atlas.place(Number(canvas.dataset.row));
          atlas.paintImage(canvas, image, method, target, look, cell).catch(atlas.trouble);
        }
      }
    });
    for (const canvas of document.querySelectorAll("#overview canvas")) observer.observe(canvas);
    for (const button of document.querySelectorAll("#overview .open")) {
      button.addEventListener("click", () => atlas.go({ row: Number(button.dataset.row) }));
    }
  }

  atlas.start().then(() => {
    bindControls();
    document.getElementById("filters").open = !matchMedia("(max-width: 40rem)").matches;
    atlas.paintLegend(document.getElementById("legend"));
    drawStanding();
    window.addEventListener("hashchange", () => show(atlas.parse(location.hash)));
    window.addEventListener("popstate", () => show(atlas.parse(location.hash)));
    return show(atlas.parse(location.hash));
  }).catch(atlas.trouble);
})();
