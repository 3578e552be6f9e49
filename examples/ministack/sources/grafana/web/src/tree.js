// The tree of metrics at the side: each folder asks for its children when it is opened.

import { find } from "./api.js";
import { element } from "./element.js";

/**
 * Fills `list` with what stands below `prefix` ("" or "a.b."). `choose` is called with a metric's name.
 * Gives the nodes that were found.
 */
export async function fill(list, source, prefix, choose) {
  const nodes = await find(source, `${prefix}*`);
  nodes.sort((a, b) => b.expandable - a.expandable || a.text.localeCompare(b.text, undefined, { numeric: true }));
  list.replaceChildren(...nodes.flatMap((node) => items(source, prefix + node.text, node, choose)));
  if (nodes.length === 0) {
    list.append(element("li", { class: "empty" }, "nothing yet"));
  }
  return nodes;
}

// A name may be both a folder and a metric: then it has two items.
function items(source, path, node, choose) {
  const made = [];
  if (node.expandable) {
    const inner = element("ul");
    const folder = element("details", {}, element("summary", {}, node.text), inner);
    folder.addEventListener("toggle", () => {
      if (folder.open) {
        fill(inner, source, `${path}.`, choose).catch((error) => {
          inner.replaceChildren(element("li", { class: "empty" }, error.message));
        });
      }
    });
    made.push(element("li", {}, folder));
  }
  if (node.leaf) {
    const button = element("button", { type: "button", "data-metric": path }, node.text);
    button.addEventListener("click", () => choose(path));
    made.push(element("li", {}, button));
  }
  return made;
}

// What is looked at first, where it is there.
const favourites = ["collectd", "load", "shortterm"];

/** A metric to begin with: the first that is found on the way down, a favourite before others; null without any. */
export async function first(source, prefix = "", depth = 0) {
  const nodes = await find(source, `${prefix}*`);
  const rank = (node) => (favourites.includes(node.text) ? favourites.indexOf(node.text) : favourites.length);
  nodes.sort((a, b) => rank(a) - rank(b));
  for (const node of nodes) {
    if (node.leaf) {
      return prefix + node.text;
    }
    const below = depth < 12 ? await first(source, `${prefix}${node.text}.`, depth + 1) : null;
    if (below !== null) {
      return below;
    }
  }
  return null;
}
