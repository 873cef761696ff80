// What the parts of the sidebar share: the order of elements, and the focus among them.

// Moving keeps the focus; where a browser cannot, or the node is new, it is inserted.
const put = (parent, node, place) => {
  if (node.isConnected && parent.moveBefore) parent.moveBefore(node, place);
  else parent.insertBefore(node, place);
};

/** Put nodes at the front of a connected parent, in this order, moving as few as possible. */
export const arrange = (parent, nodes) => {
  let place = parent.firstChild;
  for (const node of nodes) {
    if (place !== node && place?.nextSibling === node) { // the one in its place has moved down or away
      put(parent, place, null);
      place = node;
    }
    if (place === node) place = place.nextSibling;
    else put(parent, node, place);
  }
};

const STEPS = { ArrowDown: (i) => i + 1, ArrowUp: (i) => i - 1, Home: () => 0, End: (_, n) => n - 1 };

/** Move the focus among elements by the arrow keys, Home and End; tells whether the key was one of these. */
export const moveFocus = (event, elements) => {
  const step = STEPS[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return false;
  event.preventDefault();
  const target = step(elements.indexOf(document.activeElement), elements.length);
  elements[Math.max(0, Math.min(target, elements.length - 1))]?.focus();
  return true;
};
