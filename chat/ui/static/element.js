// Building of elements; text becomes text, never markup.

/** Return a new element with properties (`class`, `on` and names with a dash are set as such) and children. */
export const el = (tag, { class: classes, on = {}, ...properties } = {}, ...children) => {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'role' || name.includes('-')) element.setAttribute(name, value);
    else element[name] = value;
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  element.append(...children.filter((child) => child !== null));
  return element;
};

/** Make a textarea as high as its text; its style says how high it may get. */
export const fitHeight = (area) => {
  area.style.height = 'auto';
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
};
