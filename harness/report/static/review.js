// Decisions about candidates become one command. Names come quoted for a shell; the reason is quoted here.
"use strict";
(() => {
  const form = document.querySelector("[data-review]");
  if (!form) return;
  const rows = [...form.querySelectorAll("[data-choice]")];
  const reason = form.querySelector("[data-reason]");
  const code = form.querySelector("[data-decided]");
  const left = form.querySelector("[data-undecided]");
  const quoted = (text) => `'${text.replaceAll("'", "'\"'\"'")}'`;
  const decision = (row) => row.querySelector("input:checked").value;

  const show = () => {
    const named = (value) => rows.filter((row) => decision(row) === value).map((row) => row.dataset.choice);
    const accepted = named("accept"), rejected = form.dataset.origin ? [] : named("reject");
    const why = reason.value.replace(/[\u0000-\u001f\u007f]+/g, " ").trim();
    const parts = [];
    if (accepted.length) parts.push(`quantgate accept ${accepted.join(" ")} --reason ${quoted(why || "...")}${form.dataset.origin}`);
    if (rejected.length) parts.push(`quantgate reject ${rejected.join(" ")}`);
    code.textContent = parts.join(" && ");
    code.parentElement.hidden = !parts.length;
    const later = named("later").length;
    const missing = accepted.length && !why ? "; give a reason" : "";
    left.textContent = `${accepted.length} accepted, ${rows.length - accepted.length - later} not, ${later} later${missing}`;
  };
  const all = (value) => {
    for (const row of rows) row.querySelector(`input[value=${value}]`).checked = true;
    show();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  form.addEventListener("change", show);
  form.querySelector("[data-accept-all]").addEventListener("click", () => all("accept"));
  form.querySelector("[data-decide-later]").addEventListener("click", () => all("later"));
  show();
})();
