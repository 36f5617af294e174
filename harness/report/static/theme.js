// Before the first paint: the theme that was chosen last. Without a choice the system's stands.
"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("quantgate-theme");
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  } catch { /* storage is closed to this page: the system's theme stands */ }
})();
