// COCO: what is saved, and what is loaded again.
"use strict";

/** Return the annotated images as COCO. An image without annotations is one without an object. */
atlas.toCoco = (page, annotations) => {
  const images = [];
  const objects = [];
  annotations.entries.forEach(({ boxes }, place) => {
    if (!annotations.isDone(place)) return;
    const { file, width, height } = page.images[place];
    images.push({ id: place + 1, file_name: file, width, height });
    for (const { x0, y0, x1, y1, category } of boxes) {
      const [w, h] = [x1 - x0, y1 - y0];
      objects.push({
        id: objects.length + 1, image_id: place + 1, category_id: category, bbox: [x0, y0, w, h], area: w * h, iscrowd: 0,
      });
    }
  });
  const info = { description: "boxes drawn on a page of ViT Atlas", vit_atlas: page.info };
  return { info, images, annotations: objects, categories: page.categories };
};

/**
 * Return {changes, foreign} of a COCO file: the entries of images of this page, and the number of its other images.
 * Boxes of COCO are x, y, width, height. Throws an Error with a sentence.
 */
atlas.fromCoco = (text, page) => {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (!Array.isArray(content?.images) || !Array.isArray(content?.annotations)) {
    throw new Error("The file is not COCO: it has no images and annotations.");
  }
  const placeOf = new Map(page.images.map(({ file }, place) => [file, place]));
  const boxesOf = new Map();
  for (const item of content.annotations) {
    if (!Array.isArray(item?.bbox)) continue;
    const [x0, y0, w, h] = item.bbox.map(Number);
    const box = { x0, y0, x1: x0 + w, y1: y0 + h, category: item.category_id };
    boxesOf.set(item.image_id, [...(boxesOf.get(item.image_id) ?? []), box]);
  }
  const changes = [];
  let foreign = 0;
  for (const { id, file_name: file, width, height } of content.images) {
    const image = page.images[placeOf.get(file)];
    if (!image || image.width !== width || image.height !== height) {
      foreign += 1;
      continue;
    }
    const boxes = boxesOf.get(id) ?? [];
    changes.push([placeOf.get(file), atlas.checkEntry({ boxes, none: boxes.length === 0 }, image)]);
  }
  return { changes, foreign };
};
