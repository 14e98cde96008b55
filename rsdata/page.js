"use strict";

// Chips choose a dataset and a class; the cards that have both stay.
for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const cards = [...gallery.querySelectorAll("[data-classes]")];
  const chips = [...gallery.querySelectorAll("[data-filter]")];
  const told = gallery.querySelector("[data-matches]");
  const clear = gallery.querySelector("[data-clear]");
  const chosen = { dataset: null, classes: null };

  const apply = () => {
    let matches = 0;
    for (const card of cards) {
      const fits = Object.keys(chosen).every(
        (key) => chosen[key] === null || card.dataset[key].split(" ").includes(chosen[key].dataset.value),
      );
      card.hidden = !fits;
      matches += fits;
    }
    for (const chip of chips) {
      chip.setAttribute("aria-pressed", String(chosen[chip.dataset.filter] === chip));
    }
    const names = Object.values(chosen).filter(Boolean).map((chip) => chip.dataset.name);
    told.textContent = names.length
      ? `${matches} of ${cards.length} images: ${names.join(", ")}`
      : `${cards.length} images`;
    clear.hidden = !names.length;
  };
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chosen[chip.dataset.filter] = chosen[chip.dataset.filter] === chip ? null : chip;
      apply();
    });
  }
  clear.addEventListener("click", () => {
    chosen.dataset = chosen.classes = null;
    apply();
    chips[0]?.focus();
  });
}

// What has data-on lights what has one of its words as data-key; a click holds the light.
const light = (box, source) => {
  box.classList.toggle("lit", source !== null);
  for (const lit of box.querySelectorAll(".on")) {
    lit.classList.remove("on");
  }
  for (const key of source?.dataset.on.split(" ") ?? []) {
    for (const target of box.querySelectorAll(`[data-key~="${CSS.escape(key)}"]`)) {
      target.classList.add("on");
    }
  }
};
const held = new Map();
const sourceOf = (event) => event.target.closest?.("[data-on]") ?? null;
const boxOf = (source) => source.closest("[data-light]");
for (const [name, on] of [["pointerover", true], ["focusin", true], ["pointerout", false], ["focusout", false]]) {
  document.addEventListener(name, (event) => {
    const source = sourceOf(event);
    if (source && source.dataset.on && !held.get(boxOf(source))) {
      light(boxOf(source), on ? source : null);
    }
  });
}
document.addEventListener("click", (event) => {
  const source = sourceOf(event);
  if (source && source.dataset.on) {
    const box = boxOf(source);
    const keep = held.get(box) !== source;
    held.set(box, keep ? source : null);
    light(box, keep ? source : null);
  }
});
