// What Gradio's forms set, and what they are filled in with: they call the functions of `window.parley`.

import { toldInHead } from './dom.js';
import { session } from './session.js';

const SAMPLING_FIELDS = ['temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'max_tokens', 'seed'];
const THEME = 'parley.theme';
const LANGUAGE = 'parley.language';
const PRESET = 'parley.preset';

const presets = new Map(); // by name
let chosen = {}; // sampling parameters that the reader has set, in the order of SAMPLING_FIELDS

const defaults = () => session.model?.params ?? {};

/** Take what the sampling form has; only what differs from the model's own is sent with a message. */
const setSampling = (values) => {
  const entries = SAMPLING_FIELDS.map((name, i) => [name, values[i]]);
  const own = defaults();
  chosen = Object.fromEntries(entries.filter(([name, value]) => value !== null && value !== own[name]));
  session.params = chosen;
};

const resetSampling = () => {
  chosen = {};
  session.params = chosen;
  fill();
};

const choosePreset = (name) => {
  const preset = presets.get(name);
  if (!preset) return;
  const known = SAMPLING_FIELDS.filter((field) => field in preset.params);
  chosen = Object.fromEntries(known.map((field) => [field, preset.params[field]]));
  session.params = chosen;
  const systemPrompt = preset.system_prompt ?? null;
  if (session.conversation) session.change({ system_prompt: systemPrompt });
  else session.setNewChat({ preset: name, system_prompt: systemPrompt });
  fill();
};

// Each owner has presets of their own, so it is here that Gradio learns what there is to choose.
const presetChoice = (value) => ({ __type__: 'update', choices: [...presets.keys()].map((name) => [name, name]), value });

/** Return what the form of the chat shows: preset, system prompt, recap, and the sampling parameters. */
const chatFormValues = () => {
  const shown = session.conversation ?? session.newChat;
  const sampling = SAMPLING_FIELDS.map((name) => chosen[name] ?? (name === 'seed' ? null : defaults()[name]));
  return [presetChoice(shown.preset ?? firstPreset()), shown.system_prompt ?? '', shown.recap, ...sampling];
};

const firstPreset = () => presets.keys().next().value ?? null;

const defaultPreset = () => {
  const name = localStorage.getItem(PRESET);
  return presets.has(name) ? name : firstPreset();
};

const fill = () => window.parley.fillChatForm?.();

const setTheme = (theme) => {
  localStorage.setItem(THEME, theme);
  applyTheme();
};

const setLanguage = (language) => {
  localStorage.setItem(LANGUAGE, language);
  location.reload();
};

const setDefaultPreset = (name) => {
  localStorage.setItem(PRESET, name);
  if (!session.conversation) choosePreset(name);
};

const settingsValues = () => [
  localStorage.getItem(THEME) ?? 'system',
  document.documentElement.lang,
  presetChoice(defaultPreset()),
  toldInHead('model'), // for administrators alone
  toldInHead('data-folder'),
];

const dark = matchMedia('(prefers-color-scheme: dark)');

/** Put the page into the colours that the reader has chosen, or that their system has. */
export const applyTheme = () => {
  const theme = localStorage.getItem(THEME) ?? 'system';
  document.body.classList.toggle('dark', theme === 'dark' || (theme === 'system' && dark.matches));
};

// Gradio sets the class by the system's colours, whenever it starts or they change.
const keepTheme = () => new MutationObserver(applyTheme).observe(document.body, { attributeFilter: ['class'] });

let shownId = null; // of the conversation that the form is filled in for

const follow = () => {
  const id = session.conversation?.id ?? null;
  if (id === shownId) return fill();
  const isFirstMessage = shownId === null && 'seed' in chosen; // the seed that was set goes on to count
  shownId = id;
  if (id === null) return choosePreset(defaultPreset());
  if (session.conversation.params) takeStored(session.conversation.params, isFirstMessage);
  fill();
};

const takeStored = (params, keepSeed) => {
  const own = defaults();
  const differing = SAMPLING_FIELDS.filter((name) => name !== 'seed' && (params[name] ?? own[name]) !== own[name]);
  const seed = keepSeed ? { seed: chosen.seed } : {};
  chosen = { ...Object.fromEntries(differing.map((name) => [name, params[name]])), ...seed };
  session.params = chosen;
};

/** Connect the forms to the session. */
export const connectForms = (knownPresets) => {
  for (const preset of knownPresets) presets.set(preset.name, preset);
  window.parley = {
    ...window.parley,
    setSampling, resetSampling, choosePreset, chatFormValues, setTheme, setLanguage, setDefaultPreset, settingsValues,
    setSystemPrompt: (text) => session.change({ system_prompt: text || null }),
    setRecap: (recap) => session.change({ recap }),
  };
  applyTheme();
  keepTheme();
  dark.addEventListener('change', applyTheme);
  session.addEventListener('conversation', follow);
  session.addEventListener('model', fill);
  window.parley.fillSettings?.();
  follow();
};
