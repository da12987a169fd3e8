// What a page does beside htmx: times in the reader's zone, and whether it is live. Without this, pages can be read.
(() => {
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'short' });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
  const away = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto', style: 'short' });
  const units = [['day', 86400], ['hour', 3600], ['minute', 60], ['second', 1]];

  // What was to come is "now" when its time is over and nothing newer is known; clocks may differ, too.
  function relative(at, kind) {
    const exact = Math.round((at - Date.now()) / 1000);
    const seconds = kind === 'in' ? Math.max(0, exact) : Math.min(0, exact);
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units[3];
    return away.format(Math.trunc(seconds / size), unit);
  }

  function absolute(at) {
    return day.format(at) === day.format(new Date()) ? clock.format(at) : full.format(at);
  }

  function localize() {
    for (const time of document.querySelectorAll('time[datetime]')) {
      const at = new Date(time.dateTime);
      const text = time.dataset.relative ? relative(at, time.dataset.relative) : absolute(at);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // What a reader has opened stays open, and a time in his zone stays in it, whatever comes from the server.
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => name !== 'open' || node.tagName !== 'DETAILS';
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old, fresh) => {
    if (old.tagName === 'TIME' && fresh.tagName === 'TIME' && old.dateTime === fresh.dateTime) return false;
    return true;
  };

  // A browser keeps few connections to one host: a page that nobody sees gives its own back.
  let source;
  htmx.createEventSource = (url) => (source = new EventSource(url));
  function look() {
    if (!source) return;
    if (document.hidden) source.close();
    else if (source.readyState === EventSource.CLOSED) source.dispatchEvent(new Event('error')); // htmx opens it again
  }

  function say(state, text) {
    const shown = document.getElementById('connection');
    if (!shown) return;
    shown.hidden = false;
    shown.className = `connection ${state}`;
    if (shown.textContent !== text) shown.textContent = text;
  }

  function live() {
    if (source?.readyState === EventSource.OPEN) say('on', 'Live');
  }

  function lost() {
    if (!document.hidden) say('off', 'Reconnecting…');
  }

  document.addEventListener('htmx:sseOpen', live);
  document.addEventListener('htmx:sseError', lost);
  document.addEventListener('htmx:sendError', lost);
  document.addEventListener('htmx:afterSwap', () => { localize(); live(); });
  document.addEventListener('visibilitychange', look);

  // A page does not look again while nobody sees it, nor while a button works: what that comes to is the newest.
  let working = 0;
  document.addEventListener('htmx:beforeRequest', (event) => {
    if (event.detail.requestConfig.verb !== 'get') working += 1;
    else if (working || document.hidden) event.preventDefault();
  });
  document.addEventListener('htmx:afterRequest', (event) => {
    if (event.detail.requestConfig.verb !== 'get') working -= 1;
  });
  localize();
  setInterval(localize, 1000);

  // A button's row keeps the focus, also when the button is gone or another; if the row is gone, the message has it.
  let place;
  document.addEventListener('htmx:beforeRequest', (event) => {
    if (event.detail.requestConfig.verb === 'get') return;
    const form = event.detail.elt;
    place = { row: form.closest('li[id], .head')?.id, button: form.querySelector('button')?.textContent };
  });
  document.addEventListener('htmx:afterSettle', () => {
    if (!place) return;
    const { row, button } = place;
    place = undefined;
    const now = row && document.getElementById(row);
    const same = now && [...now.querySelectorAll('button')].find((one) => one.textContent === button && !one.disabled);
    (same ?? now ?? document.getElementById('said'))?.focus({ preventScroll: Boolean(now) });
  });

  // What can be copied has a button for it, where the browser lets a page copy.
  function offerCopies() {
    if (!navigator.clipboard) return;
    for (const button of document.querySelectorAll('button[data-copy][hidden]')) button.hidden = false;
  }
  document.addEventListener('click', async (event) => {
    const button = event.target.closest('button[data-copy]');
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = 'Copied';
  });
  document.addEventListener('htmx:afterSwap', offerCopies);
  offerCopies();

  // What a button came to is said for a while, and an error of it too.
  document.addEventListener('htmx:responseError', (event) => {
    if (event.detail.requestConfig.verb === 'get') return lost();
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText, 'text/html');
    const said = document.getElementById('said');
    if (said) said.textContent = page.getElementById('said')?.textContent ?? 'That did not work.';
  });
})();
