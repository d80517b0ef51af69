// Opened as files, pages cannot be fetched for excerpts: search then lists titles only.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// What assistive technology and the keyboard need beyond the theme's pages.
document.addEventListener("DOMContentLoaded", () => {
  const all = (selector) => document.querySelectorAll(selector);
  // Boxes that scroll sideways can be reached and scrolled by the keyboard.
  for (const box of all("pre, div.math, .table-wrapper")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
  for (const caption of all("p.caption[role=heading]")) caption.setAttribute("aria-level", "2");
  for (const [name, label] of [["sidebar-drawer", "Pages"], ["toc-drawer", "On this page"]]) {
    for (const aside of all(`aside.${name}`)) aside.setAttribute("aria-label", label);
  }
  // The lines of a long signature are no list of definitions.
  for (const list of all("dt.sig dl")) {
    const lines = [...list.children].map((line) => {
      const span = document.createElement("span");
      span.className = "sig-line";
      span.append(...line.childNodes);
      return span;
    });
    list.replaceWith(...lines);
  }
  // The corner of a table with headings on two sides is no heading.
  for (const head of all("th")) {
    if (head.textContent.trim()) continue;
    const cell = document.createElement("td");
    cell.className = head.className;
    head.replaceWith(cell);
  }
});
