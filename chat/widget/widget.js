// Parley's widget: a button on this page, and the chat in a frame.
(() => {
  const script = document.currentScript;
  if (!script) return console.error('Parley: widget.js needs a plain <script src>.');
  if (window.Parley?.destroy) return console.warn('Parley: a second script tag does nothing.');

  const { site, target } = script.dataset;
  const server = new URL(script.src).origin;
  const isInline = target !== undefined;
  const ending = new AbortController();
  const { signal } = ending;
  let port, look; // come from the frame
  const waiting = []; // calls until then

  const host = document.createElement('parley-widget');
  const shadow = host.attachShadow({ mode: 'closed' });
  const button = shadow.appendChild(document.createElement('button'));
  const frame = shadow.appendChild(document.createElement('iframe'));
  frame.hidden = button.hidden = true;

  const listen = (where, name, run) => where.addEventListener(name, run, { signal });
  const fire = (name, detail) => dispatchEvent(new CustomEvent(`parley:${name}`, { detail }));
  const tell = (...message) => port.postMessage(message);

  const draw = (isOpen) => {
    frame.hidden = !isOpen;
    button.hidden = isInline;
    button.ariaExpanded = isOpen;
    button.ariaLabel = isOpen ? look.close : look.open;
    host.className = isInline ? 'inline' : `${look.position} ${isOpen ? 'open' : ''}`;
  };

  const show = (isOpen, isAsked = true) => {
    if (isInline || isOpen !== frame.hidden) return;
    const { activeElement } = shadow;
    const name = isOpen ? 'opened' : 'closed';
    draw(isOpen);
    if (isOpen && isAsked) frame.focus();
    if (!isOpen && activeElement) button.focus();
    tell(name, isAsked);
    fire(name);
  };

  const requests = { // of the frame
    fire,
    show,
    look(wanted) {
      look = wanted;
      const sheet = new CSSStyleSheet(); // the page's policy may forbid <style>
      sheet.replaceSync(look.styles);
      shadow.adoptedStyleSheets = [sheet];
      frame.title = look.title;
      draw(isInline || !frame.hidden);
      fire('ready');
      waiting.splice(0).forEach(queueMicrotask); // any may fail
    },
    unread() {
      host.classList.add('unread');
      button.ariaLabel = look.unread;
    },
  };

  const connect = () => {
    const { port1, port2 } = new MessageChannel();
    port = port1;
    port.onmessage = ({ data: [name, ...values] }) => requests[name](...values);
    const page = document.documentElement;
    const { direction } = getComputedStyle(page);
    const options = { ...script.dataset, lang: page.lang, direction, isShown: isInline || !frame.hidden };
    frame.contentWindow.postMessage({ type: 'parley:port', options }, server, [port2]);
  };

  const end = () => {
    ending.abort();
    port?.close();
    host.remove();
  };

  const fail = (code, reason) => {
    if (look || signal.aborted) return;
    console.error(`Parley: no widget. ${reason} More: parley site check ${location.href}`);
    fire('error', { code });
    end();
  };

  const start = () => {
    if (signal.aborted) return;
    button.setAttribute('aria-controls', (frame.id = 'chat'));
    frame.src = `${server}/widget/${site}?origin=${encodeURIComponent(origin)}`;
    frame.onload = () => setTimeout(fail, 10000, 'no_answer', `${server} does not answer in a frame.`);
    try {
      (isInline ? document.querySelector(target) : document.body).append(host);
    } catch { // null, or not a selector
      fail('no_target', `Nothing matches data-target="${target}".`);
    }
  };

  listen(window, 'message', ({ source, origin, data }) => {
    if (origin !== server || source !== frame.contentWindow) return;
    if (data.type === 'parley:ready') connect();
    if (data.type === 'parley:refused') fail(data.code, data.reason);
  });
  listen(document, 'securitypolicyviolation', ({ disposition, effectiveDirective, blockedURI }) => {
    const isOurs = effectiveDirective === 'frame-src' && blockedURI.startsWith(server);
    if (isOurs && disposition === 'enforce') fail('blocked', `The page's policy lacks "frame-src ${server}".`);
  });
  listen(shadow, 'keydown', ({ key }) => key === 'Escape' && show(false));
  listen(button, 'click', () => show(frame.hidden));
  listen(button, 'pointerenter', () => tell('near'));

  const later = (run) => (...values) => (look ? run(...values) : void waiting.push(() => run(...values)));
  window.Parley = {
    open: later(() => show(true)),
    close: later(() => show(false)),
    toggle: later(() => show(frame.hidden)),
    send: later((text) => tell('send', `${text}`)),
    newConversation: later(() => tell('new')),
    setUser: later((id, vouch) => tell('user', id, vouch?.hash)),
    on(name, run) {
      const hear = ({ detail }) => run(detail);
      listen(window, `parley:${name}`, hear);
      return () => removeEventListener(`parley:${name}`, hear);
    },
    destroy() {
      end();
      delete window.Parley;
    },
  };

  const wait = () => (window.requestIdleCallback ?? setTimeout)(start);
  if (document.readyState === 'complete') wait();
  else listen(window, 'load', wait);
})();
