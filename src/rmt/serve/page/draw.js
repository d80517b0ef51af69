// Drawing on canvases: boxes and masks, class maps, attention. Nothing here asks the server.

// The pixels of COCO's compressed run lengths as a canvas with alpha; runs go down the columns, beginning with zeros.
export function decodeRuns({ size: [height, width], counts }) {
  const mask = new Uint8Array(height * width);
  const runs = [];
  let place = 0, at = 0, value = 0;
  while (at < counts.length) {
    let number = 0, shift = 0, more = true;
    while (more) {
      const code = counts.charCodeAt(at++) - 48;
      number |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16) number |= -1 << shift;
    }
    if (runs.length > 2) number += runs[runs.length - 2];
    runs.push(number);
    if (value) mask.fill(1, place, place + number);
    place += number;
    value = 1 - value;
  }
  return { width, height, mask };
}

function maskCanvas({ width, height, mask }, [red, green, blue]) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  for (let x = 0, from = 0; x < width; x++) {
    for (let y = 0; y < height; y++, from++) {
      if (mask[from]) picture.data.set([red, green, blue, 255], 4 * (y * width + x));
    }
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

export function drawBoxes(context, objects, factor, colours) {
  const { width, height } = context.canvas, line = Math.max(2, Math.round(Math.max(width, height) / 300));
  const size = Math.max(12, Math.round(Math.max(width, height) / 50));
  for (const object of [...objects].reverse()) {
    if (!object.pixels) continue;
    object.canvas ??= maskCanvas(object.pixels, colours[object.index]);
    context.globalAlpha = 0.42;
    context.drawImage(object.canvas, 0, 0, width, height);
    context.globalAlpha = 1;
  }
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const object of [...objects].reverse()) {
    const [x, y, w, h] = object.box.map((value) => value * factor), colour = colours[object.index];
    context.lineWidth = line + 2;
    context.strokeStyle = "#000";
    context.strokeRect(x, y, w, h);
    context.lineWidth = line;
    context.strokeStyle = `rgb(${colour})`;
    context.strokeRect(x, y, w, h);
    const text = `${object.label} ${object.score.toFixed(2)}`, wide = context.measureText(text).width + size;
    const top = y >= 1.4 * size ? y - 1.4 * size : y, left = Math.max(0, Math.min(x, width - wide));
    context.fillStyle = `rgb(${colour})`;
    context.fillRect(left, top, wide, 1.4 * size);
    context.fillStyle = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 140 ? "#000" : "#fff";
    context.fillText(text, left + size / 2, top + 0.72 * size);
  }
}

// A class map from its palette PNG, as a canvas whose pixels of transparent classes are transparent.
export async function overlay(base64, model) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  if (model.transparent.length) {
    const picture = context.getImageData(0, 0, bitmap.width, bitmap.height), data = picture.data;
    const keys = new Set(model.transparent.map((k) => model.colours[k].join()));
    for (let i = 0; i < data.length; i += 4) if (keys.has(`${data[i]},${data[i + 1]},${data[i + 2]}`)) data[i + 3] = 0;
    context.putImageData(picture, 0, 0);
  }
  return canvas;
}

const HEAT = [[8, 12, 40], [88, 28, 120], [200, 60, 90], [250, 150, 60], [255, 245, 170]];

function heat(value) {
  const place = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[low].map((start, i) => start + (place - low) * (HEAT[low + 1][i] - start));
}

// The decay of a head around the token at the point, 0 to 255: it halves with every half distance.
function decay({ grid: [height, width], query: [row, column], token }, half) {
  return Float32Array.from({ length: height * width }, (_, i) => {
    const distance = Math.abs(Math.floor(i / width) - row) + Math.abs((i % width) - column);
    return 255 * 2 ** ((-distance * token) / half);
  });
}

// The attention of one head (or its decay) over the part of the photo that the network sees.
export function drawHeat(context, found, stage, number, decayAlone, factor) {
  const [height, width] = stage.grid, head = stage.heads[number];
  const values = decayAlone && head.half_distance !== null
    ? decay(stage, head.half_distance)
    : Uint8Array.from(atob(head.attention), (letter) => letter.charCodeAt(0));
  const canvas = new OffscreenCanvas(width, height), small = canvas.getContext("2d");
  const picture = small.createImageData(width, height);
  values.forEach((value, i) => picture.data.set([...heat(Math.sqrt(value / 255)), 190], 4 * i));
  small.putImageData(picture, 0, 0);
  const [left, top] = found.view, token = stage.token * factor;
  context.save();
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, left * factor, top * factor, width * token, height * token);
  if (head.half_distance !== null) {
    const x = left * factor + (stage.query[1] + 0.5) * token, y = top * factor + (stage.query[0] + 0.5) * token;
    const far = head.half_distance * factor;
    context.setLineDash([5, 4]);
    context.lineWidth = 1.5;
    context.strokeStyle = "#fff";
    context.beginPath();
    context.moveTo(x - far, y);
    for (const [dx, dy] of [[0, -far], [far, 0], [0, far], [-far, 0]]) context.lineTo(x + dx, y + dy);
    context.stroke();
  }
  context.restore();
}

export function drawPoint(context, x, y, radius = 9) {
  for (const [colour, line] of [["#000", 4], ["#00e5ff", 2]]) {
    context.lineWidth = line;
    context.strokeStyle = colour;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.moveTo(x - 1.6 * radius, y);
    context.lineTo(x + 1.6 * radius, y);
    context.moveTo(x, y - 1.6 * radius);
    context.lineTo(x, y + 1.6 * radius);
    context.stroke();
  }
}
