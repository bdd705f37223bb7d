// The choice of a view, the opacity of its maps, and one picture at full size.
"use strict";
const zoomed = document.getElementById("zoomed");

function choose(card) {
  const of = (part) => card.querySelector(`input[data-part="${part}"]:checked`);
  const [method, view] = [of("method"), of("view")].map((input) => (input ? input.value : "0"));
  for (const shown of card.querySelectorAll("[data-method]")) {
    shown.hidden = shown.dataset.method !== method || shown.dataset.view !== view;
  }
}

document.addEventListener("change", (event) => {
  if (event.target.dataset.part) choose(event.target.closest(".card"));
});

document.addEventListener("input", (event) => {
  if (!event.target.matches(".slider input")) return;
  event.target.closest(".card").style.setProperty("--opacity", event.target.value / 100);
});

document.addEventListener("click", (event) => {
  if (zoomed.contains(event.target)) return zoomed.close();
  const stack = event.target.closest("button.stack");
  if (!stack) return;
  const of = getComputedStyle(stack);
  for (const name of ["--photograph", "--outline", "--opacity", "--ratio", "--wide"]) {
    zoomed.style.setProperty(name, of.getPropertyValue(name));
  }
  const text = document.createElement("p");
  text.textContent = stack.getAttribute("aria-label");
  zoomed.replaceChildren(stack.cloneNode(true), text);
  zoomed.showModal();
});

for (const card of document.querySelectorAll(".card")) choose(card);
