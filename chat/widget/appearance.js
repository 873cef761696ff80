// How the widget looks: what its site says, unless the page that shows it says something else.

const COLOUR = /^#[\da-f]{6}$/i;
const MAX_TEXT = 500; // characters of a title or a greeting
const CONTRAST = 4.5; // of text, by WCAG
const PAPERS = { light: '#f1f3f6', dark: '#262a32' }; // --shade in frame.css, on which links stand
const INKS = ['#ffffff', '#111111'];

const CHOICES = {
  position: (value) => ['right', 'left'].includes(value),
  theme: (value) => ['auto', 'light', 'dark'].includes(value),
  accent: (value) => COLOUR.test(value),
  title: (value) => value.length <= MAX_TEXT,
  greeting: (value) => value.length <= MAX_TEXT,
};

/** Return the appearance of a site, changed by those options of a page that are sound. */
export const choose = (site, options) => {
  const sound = Object.entries(CHOICES).filter(([name, isSound]) => options[name] && isSound(options[name]));
  const isMirrored = options.direction === 'rtl' && site.position === 'right'; // the usual corner is where lines end
  const position = isMirrored ? 'left' : site.position;
  return { ...site, position, ...Object.fromEntries(sound.map(([name]) => [name, options[name]])) };
};

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

const luminance = (colour) => {
  const [red, green, blue] = channels(colour).map((channel) => {
    const part = channel / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};

const contrast = (one, other) => {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};

/** Return the ink that is read best on a colour. */
const inkOn = (colour) => INKS.reduce((best, ink) => (contrast(ink, colour) > contrast(best, colour) ? ink : best));

/** Return the colour nearest to one that can be read on a paper. */
const readable = (colour, paper) => {
  const ink = channels(inkOn(paper));
  for (let share = 0; ; share += 0.05) {
    const mixed = channels(colour).map((channel, i) => Math.round(channel + (ink[i] - channel) * Math.min(share, 1)));
    const shade = `#${mixed.map((channel) => channel.toString(16).padStart(2, '0')).join('')}`;
    if (share >= 1 || contrast(shade, paper) >= CONTRAST) return shade;
  }
};

/** Colour a document by an appearance. */
export const dress = ({ theme, accent }, root) => {
  root.dataset.theme = theme;
  const colours = { accent, ink: inkOn(accent) };
  for (const [name, paper] of Object.entries(PAPERS)) colours[`link-${name}`] = readable(accent, paper);
  for (const [name, colour] of Object.entries(colours)) root.style.setProperty(`--${name}`, colour);
};

/** Return the styles of what the loader shows on the page: a button, and the frame of the chat. */
export const shellStyles = ({ accent }) => `
:host { all: initial !important; position: absolute !important; display: block !important; }
:host(.inline) { position: static !important; height: 100% !important; }
[hidden] { display: none !important; }
button, iframe { position: fixed; right: 20px; z-index: 2147483000; border: 0; }
:host(.left) :is(button, iframe) { right: auto; left: 20px; }
button {
  inset-block-end: max(20px, env(safe-area-inset-bottom)); inline-size: 56px; block-size: 56px; padding: 0;
  border-radius: 50%; background: ${accent}; color: ${inkOn(accent)}; cursor: pointer;
  box-shadow: 0 2px 6px rgb(0 0 0 / 0.2), 0 8px 24px rgb(0 0 0 / 0.15);
}
button:focus-visible { outline: 3px solid ${accent}; outline-offset: 3px; }
button::before { content: ''; position: absolute; inset: 16px; scale: 1.15; background: currentColor; }
button::before { clip-path: path('${BUBBLE}'); }
:host(.open) button::before { clip-path: path('${CROSS}'); }
:host(.unread) button::after {
  content: ''; position: absolute; inset-block-start: 0; inset-inline-end: 0; inline-size: 10px; block-size: 10px;
  border: 3px solid #fff; border-radius: 50%; background: #d81b3c;
}
iframe {
  inset-block-end: 92px; inline-size: 400px; block-size: min(640px, 100dvh - 112px); box-sizing: border-box;
  border-radius: 16px; background: Canvas; color-scheme: light dark;
  box-shadow: 0 0 0 1px rgb(128 128 128 / 0.25), 0 12px 48px rgb(0 0 0 / 0.22);
}
:host(.inline) iframe {
  position: static; inline-size: 100%; block-size: 100%; min-block-size: 400px; box-shadow: none;
}
@media (prefers-reduced-motion: no-preference) {
  button { transition: scale 0.15s; }
  button:hover { scale: 1.06; }
  :host(.open) iframe { animation: rise 0.18s ease-out; }
  @keyframes rise { from { opacity: 0; translate: 0 12px; } }
}
@media (width < 640px) {
  :host(.open) iframe {
    inset: 0; inline-size: 100%; block-size: 100dvh; border-radius: 0; box-shadow: none;
    padding: env(safe-area-inset-top) env(safe-area-inset-right) env(safe-area-inset-bottom) env(safe-area-inset-left);
  }
  :host(.open) button { display: none; }
}
@media (forced-colors: active) { button { border: 2px solid ButtonText; } }
@media print { :host(:not(.inline)) { display: none !important; } }`;

// Drawn on a field of 24 by 24.
const BUBBLE = 'M6 2h12a4 4 0 0 1 4 4v7a4 4 0 0 1-4 4h-6l-5 5v-5H6a4 4 0 0 1-4-4V6a4 4 0 0 1 4-4z';
const CROSS = 'M5 7l2-2 5 5 5-5 2 2-5 5 5 5-2 2-5-5-5 5-2-2 5-5z';
