// The page: its elements, and what connects them with each other and with Gradio's forms.

import { account, markPage } from './account.js';
import { api } from './api.js';
import './care.js';
import './chat.js';
import './data.js';
import { connectForms } from './forms.js';
import { connectKeys } from './keys.js';
import './late.js';
import './ledger.js';
import './model.js';
import { connectPanel } from './panel.js';
import './sidebar.js';
import { language } from './texts.js';
import './tokens.js';

document.documentElement.lang = language;
connectPanel();
connectKeys();
const [user, { presets }] = await Promise.all([account(), api('GET', '/api/presets')]);
markPage(user);
connectForms(presets);
