// Tells the page that holds this frame why there is no chat in it.

const REASONS = {
  unknown_site: 'No site has the key in data-site: copy the line from Parley anew.',
  site_disabled: 'The site is switched off in Parley.',
  origin_not_listed: 'The origin of this page is not among those of the site: add it in Parley.',
  no_origin: 'A page that is opened as a file has no origin that could be added: serve it over http.',
};

const { reason, origin } = document.documentElement.dataset;

// A file has no origin that a message could be sent to; and what is told is no secret.
const message = { type: 'parley:refused', code: reason, reason: REASONS[origin ? reason : 'no_origin'] };
parent.postMessage(message, origin || '*');
