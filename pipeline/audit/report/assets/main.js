"use strict";
// Show the state of the address, and update the address by the controls.

(() => {
  const filters = ["method", "target", "class", "wrong", "disagreement", "degenerate", "q", "sort"];
  let state = null;

  atlas.showError = (error) => {
    const panel = document.getElementById("error");
    panel.textContent = error.message;
    panel.hidden = false;
  };

  // Only changes of the view are steps of the history; moving a slider is not.
  atlas.go = (changes) => {
    const next = { ...state, ...changes };
    const navigates = "view" in changes || "row" in changes || "id" in changes;
    if (filters.some((name) => name in changes)) next.page = 0;
    history[navigates ? "pushState" : "replaceState"](null, "", atlas.format(next));
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
      atlas.go({ class: "", wrong: false, disagreement: false, degenerate: false, q: "" });
    });
    document.getElementById("theme").addEventListener("click", () => {
      const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
      atlas.go({ theme: dark ? "light" : "dark" });
    });
  }

  function updateControls() {
    for (const control of document.querySelectorAll("[data-state]")) {
      const value = state[control.dataset.state];
      if (control.type === "checkbox") control.checked = value;
      else if (control.value !== String(value)) control.value = value;
    }
    for (const name of ["threshold", "opacity"]) {
      for (const output of document.querySelectorAll(`[data-shows=${name}]`)) output.textContent = state[name].toFixed(2);
    }
  }

  function updateViews() {
    const shown = state.view === "class" && state.id < 0 ? "classes" : state.view;
    for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== shown;
    for (const link of document.querySelectorAll("nav [data-view]")) {
      const { view } = link.dataset;
      const isCurrent = view === shown || (view === "classes" && shown === "class");
      if (isCurrent) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      link.href = atlas.format({ ...state, view, row: -1, id: -1 });
    }
    return shown;
  }

  async function show(next) {
    const viewChanged = state && (state.view !== next.view || state.id !== next.id);
    state = next;
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    else delete document.documentElement.dataset.theme;
    updateControls();
    for (const panel of document.querySelectorAll("[data-metric]")) panel.hidden = panel.dataset.metric !== state.metric;
    const shown = updateViews();
    if (viewChanged) {
      window.scrollTo(0, 0);
      document.getElementById(`${shown}-title`).focus({ preventScroll: true });
    }
    try {
      if (shown === "gallery") await atlas.showGallery(state);
      if (shown === "class") await atlas.showClass(state);
      await atlas.showDetail(state);
    } catch (error) {
      atlas.showError(error);
    }
    document.body.dataset.ready = String(Number(document.body.dataset.ready ?? 0) + 1);
  }

  // Draw the maps and images of the overview as they come into view.
  function drawOverview() {
    const observer = new IntersectionObserver((entries) => {
      for (const { target: canvas, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(canvas);
        const cell = canvas.dataset.cell?.split(" ").map(Number) ?? null;
        if (canvas.dataset.map) {
          atlas.paint(canvas, { map: atlas.bytes(canvas.dataset.map), cell, appearance: atlas.mapOnly });
        } else {
          const appearance = { show: canvas.dataset.show ?? "map", threshold: 0.5, opacity: atlas.about.thumbnails ? 0.45 : 1 };
          const [method, target] = [atlas.methodIndex(canvas.dataset.method), atlas.targetIndex(atlas.about.target)];
          const image = atlas.findImage(Number(canvas.dataset.row));
          atlas.paintImage(canvas, image, method, target, appearance, cell).catch(atlas.showError);
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
    drawOverview();
    window.addEventListener("hashchange", () => show(atlas.parse(location.hash)));
    window.addEventListener("popstate", () => show(atlas.parse(location.hash)));
    return show(atlas.parse(location.hash));
  }).catch(atlas.showError);
})();
