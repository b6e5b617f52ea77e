"use strict";
// Masks at any threshold from the stored map of a picture, as luss.labels.sampling makes them: the nearest position's cluster,
// background where the bilinear attention is below the threshold.

// The cluster and the attention (0..255) at every pixel of a small picture.
function unpackMap(map, width, height) {
  const ids = new Uint16Array(map.rows * map.columns);
  for (let run = 0, place = 0; run < map.ids.length; run += 2) {
    ids.fill(map.ids[run], place, place + map.ids[run + 1]);
    place += map.ids[run + 1];
  }
  const attention = Uint8Array.from(atob(map.attention), (letter) => letter.charCodeAt(0));
  const across = axis(width, map.columns);
  const down = axis(height, map.rows);
  const clusters = new Uint16Array(width * height);
  const strength = new Float32Array(width * height);
  for (let y = 0, place = 0; y < height; y++) {
    const own = down.holding[y] * map.columns;
    const [low, high] = [down.low[y] * map.columns, down.high[y] * map.columns];
    for (let x = 0; x < width; x++, place++) {
      clusters[place] = ids[own + across.holding[x]];
      const left = between(attention[low + across.low[x]], attention[high + across.low[x]], down.weight[y]);
      const right = between(attention[low + across.high[x]], attention[high + across.high[x]], down.weight[y]);
      strength[place] = between(left, right, across.weight[x]);
    }
  }
  return {clusters, strength};
}

function between(low, high, weight) {
  return low + weight * (high - low);
}

// Where the centres of `num` pixels fall on an axis of `size` positions.
function axis(num, size) {
  const places = Array.from({length: num}, (_, place) => (place + 0.5) * size / num);
  const values = places.map((place) => Math.min(Math.max(place - 0.5, 0), size - 1));
  const low = values.map(Math.floor);
  return {
    holding: places.map((place) => Math.min(Math.floor(place), size - 1)),
    low,
    high: low.map((place) => Math.min(place + 1, size - 1)),
    weight: values.map((value, place) => value - low[place]),
  };
}

const clusterColours = (lussData.clusters?.colours ?? []).map((text) =>
  [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16)));

// Paints a picture's canvas, which lies over the picture. view: mask, attention or none.
function paint(canvas, unpacked, threshold, view) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (view === "none") return;
  const image = context.createImageData(canvas.width, canvas.height);
  if (view === "mask") paintMask(image, unpacked, Math.fround(threshold * 255));
  else paintAttention(image, unpacked);
  context.putImageData(image, 0, 0);
}

function paintMask({data, width, height}, {clusters, strength}, level) {
  const mask = clusters.map((id, place) => (strength[place] < level ? 0 : id));
  for (let y = 0, place = 0; y < height; y++) {
    for (let x = 0; x < width; x++, place++) {
      const id = mask[place];
      if (!id) continue;
      const border = (x > 0 && mask[place - 1] !== id) || (x < width - 1 && mask[place + 1] !== id)
        || (y > 0 && mask[place - width] !== id) || (y < height - 1 && mask[place + width] !== id);
      const colour = clusterColours[id] ?? [255, 255, 255];
      data.set(colour, 4 * place);
      data[4 * place + 3] = border ? 255 : 115;
    }
  }
}

// Dark where nothing is attended to.
function paintAttention({data}, {strength}) {
  for (let place = 0; place < strength.length; place++) data[4 * place + 3] = 0.9 * (255 - strength[place]);
}
