// Curves and player: a click on a curve seeks, every seek moves the playheads and reads the values out.
"use strict";
(() => {
  const LEFT = 56, RIGHT = 10;
  const curves = [...document.querySelectorAll("[data-curve]")].map((svg) => ({
    svg,
    values: JSON.parse(svg.dataset.values),
    head: svg.querySelector("[data-head]"),
    output: svg.closest("figure").querySelector("[data-value]"),
    width: svg.viewBox.baseVal.width,
  }));
  const frameAt = (curve, event) => {
    const box = curve.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * curve.width;
    const share = (x - LEFT) / (curve.width - LEFT - RIGHT);
    return Math.max(0, Math.min(curve.values.length - 1, Math.round(share * (curve.values.length - 1))));
  };
  for (const curve of curves) {
    const seek = (event) => document.dispatchEvent(new CustomEvent("quantgate:seek", { detail: { frame: frameAt(curve, event) } }));
    curve.svg.addEventListener("pointerdown", seek);
    curve.svg.addEventListener("pointermove", (event) => { if (event.buttons & 1) seek(event); });
  }
  document.addEventListener("quantgate:frame", (event) => {
    const { frame } = event.detail;
    for (const curve of curves) {
      const x = LEFT + ((curve.width - LEFT - RIGHT) * frame) / Math.max(1, curve.values.length - 1);
      curve.head.setAttribute("x1", x);
      curve.head.setAttribute("x2", x);
      const value = curve.values[frame];
      curve.output.textContent = value === undefined ? "" : `${Number(value.toPrecision(4))} at frame ${frame}`;
    }
  });
})();
