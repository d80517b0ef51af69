// Files for the user: a blob under a name, and the picture with its answer below.

export function save(blob, name, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${(name || "image").replace(/\.[^.]*$/, "")}${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// A canvas with the picture and rows of [name, value] below.
export function picturePage(picture, rows) {
  const size = Math.max(14, Math.round(picture.width / 40)), line = 1.6 * size;
  const page = document.createElement("canvas");
  page.width = picture.width;
  page.height = picture.height + line * rows.length + size;
  const context = page.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, page.width, page.height);
  context.drawImage(picture, 0, 0);
  context.font = `${size}px system-ui, sans-serif`;
  context.fillStyle = "#1f2933";
  context.textBaseline = "middle";
  for (const [place, [name, value]] of rows.entries()) {
    const y = picture.height + size / 2 + line * (place + 0.5);
    context.textAlign = "left";
    context.fillText(name ?? "", size / 2, y, page.width - 7 * size);
    context.textAlign = "right";
    context.fillText(value ?? "", page.width - size / 2, y);
  }
  return page;
}
