
'use strict';
// Texts of the state come from databases that any host writes: they become text nodes and attributes, never markup.
const INTERVAL = 2000, WAITING = 400, TIMEOUT = 10000, SILENT = 20000, OLD = 10, TARGETS = 500, READABLE = 0.45;
const byId = id => document.getElementById(id);
let cluster = null, version = '', drawn = '', opened = null, heard = 0, tiles = new Map();

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}
function rate(bytes) {
  const units = ['B/s', 'kB/s', 'MB/s', 'GB/s'];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}
const sent = traffic => traffic ? rate(traffic[0]) : '\u2013';
const received = traffic => traffic ? rate(traffic[1]) : '\u2013';
const count = (number, what) => `${number} ${what}${number === 1 ? '' : 's'}`;
const clock = seconds => new Date(seconds * 1000).toLocaleTimeString();
const STATES = {
  up: ['up', 'ok'], down: ['not connected', 'warn'], fault: ['differs', 'bad'], unknown: ['unknown', 'none'],
};

// Tables. A column: its title, its text, the value that it is sorted by; number, wide (not on a phone), opens, under.
const traffic = [
  { title: 'Sends', text: one => sent(one.traffic), by: one => one.traffic ? one.traffic[0] : -1, number: true },
  { title: 'Receives', text: one => received(one.traffic), by: one => one.traffic ? one.traffic[1] : -1, number: true },
];
const bad = (one, good) => one.differences.length ? ['differs', 'bad'] : good;
const TABLES = {
  networks: [
    { title: 'Network', text: one => one.name, opens: true,
      under: one => [...one.subnets, count(one.containers, 'container')].join(', ') },
    { title: 'Subnets', text: one => one.subnets.join(', '), wide: true },
    { title: 'Hosts', text: one => one.hosts, number: true, wide: true },
    { title: 'Containers', text: one => one.containers, number: true, wide: true },
    { title: 'State', state: one => bad(one, one.shared ? ['shared', 'ok'] : ['one host', 'ok']) },
    ...traffic,
  ],
  containers: [
    { title: 'Container', text: one => one.name, opens: true,
      under: one => [one.network, one.host, ...one.addresses].join(', ') },
    { title: 'Network', text: one => one.network, wide: true },
    { title: 'Host', text: one => one.host, wide: true },
    { title: 'Addresses', text: one => one.addresses.join(', '), wide: true },
    { title: 'State', state: one => STATES[one.state] },
    ...traffic,
  ],
  tunnels: [
    { title: 'To', text: one => one.to, under: one => `from ${one.from}, ${one.address}` },
    { title: 'From', text: one => one.from, wide: true },
    { title: 'Address', text: one => one.address, wide: true },
    { title: 'Kind', text: one => one.type, wide: true },
    { title: 'State', state: one => [one.state, one.state === 'up' ? 'ok' : 'bad'] },
    ...traffic,
  ],
  hosts: [
    { title: 'Host', text: one => one.here ? `${one.name} (this host)` : one.name, under: one => one.encaps.join(', ') },
    { title: 'Tunnels end at', text: one => one.encaps.join(', '), wide: true },
    { title: 'Containers', text: one => one.containers, number: true },
    { title: 'Traffic from', text: one => one.measured || 'unknown: see --peer', wide: true },
    { title: 'Changes', state: one => one.behind ? [`${one.behind} behind`, 'warn'] : ['current', 'ok'] },
  ],
};
class Table {
  constructor(name) {
    this.columns = TABLES[name];
    this.rows = new Map();
    this.column = 0;
    this.down = false;
    this.items = [];
    this.visible = () => true;
    const table = make('table'), head = table.createTHead().insertRow();
    table.setAttribute('aria-labelledby', `${name}-title`);
    this.heads = this.columns.map((column, number) => {
      const cell = make('th', undefined, this.classes(column)), button = make('button', column.title);
      button.type = 'button';
      button.addEventListener('click', () => {
        this.down = this.column === number ? !this.down : Boolean(column.number);
        this.column = number;
        this.show(this.items);
      });
      cell.scope = 'col';
      cell.append(button);
      head.append(cell);
      return cell;
    });
    this.body = table.createTBody();
    this.note = make('p', 'none', 'soft');
    byId(name).querySelector('.table').append(table, this.note);
  }
  classes(column) {
    return [column.number ? 'number' : '', column.wide ? 'wide' : ''].filter(Boolean).join(' ');
  }
  key(column, one) {
    if (column.by) return column.by(one);
    return column.state ? column.state(one)[0] : column.text(one);
  }
  show(items) {
    this.items = items;
    const column = this.columns[this.column], sign = this.down ? -1 : 1;
    const text = new Intl.Collator(undefined, { numeric: true });
    const sorted = items.map((one, place) => [this.key(column, one), place, one]);
    sorted.sort((a, b) => sign * (typeof a[0] === 'number' ? a[0] - b[0] : text.compare(a[0], b[0])) || a[1] - b[1]);
    this.heads.forEach((head, number) => {
      if (number === this.column) head.setAttribute('aria-sort', this.down ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    const seen = new Map();
    let before = null;
    for (const [, , one] of sorted) {
      let id = String(one.id ?? `${one.from} ${one.to}`);
      while (seen.has(id)) id += '+';
      const row = this.row(id, one);
      seen.set(id, row);
      row.element.hidden = !this.visible(one);
      const next = before ? before.nextSibling : this.body.firstChild;
      if (next !== row.element) this.body.insertBefore(row.element, next);
      before = row.element;
    }
    for (const [id, row] of this.rows) if (!seen.has(id)) row.element.remove();
    this.rows = seen;
    this.note.hidden = items.length > 0;
  }
  row(id, one) {
    const shown = JSON.stringify(one), old = this.rows.get(id);
    if (old && old.shown === shown) return old;
    const row = old || { element: make('tr'), cells: [] };
    row.shown = shown;
    row.one = one;
    this.columns.forEach((column, number) => {
      let cell = row.cells[number];
      if (!cell) {
        cell = make(number ? 'td' : 'th', undefined, this.classes(column));
        if (!number) cell.scope = 'row';
        let place = cell;
        if (column.opens) {
          place = make('button');
          place.type = 'button';
          place.addEventListener('click', () => open(row.one));
        } else place = make('span');
        cell.append(place);
        if (column.under) cell.append(make('span', undefined, 'under'));
        row.cells.push(cell);
        row.element.append(cell);
      }
      const [text, tone] = column.state ? column.state(one) : [String(column.text(one)), ''];
      if (cell.firstChild.textContent !== text) cell.firstChild.textContent = text;
      if (column.state) cell.firstChild.className = `state ${tone}`;
      if (column.under) cell.lastChild.textContent = column.under(one);
    });
    return row;
  }
}
const tables = Object.fromEntries(Object.keys(TABLES).map(name => [name, new Table(name)]));

// Search
let onlyFaulty = false;
function matches(one) {
  const words = byId('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [one.name, one.network, one.host, one.mac, ...one.addresses].join(' ').toLowerCase();
  return (!onlyFaulty || one.state !== 'up') && words.every(word => text.includes(word));
}
tables.containers.visible = matches;
function search() {
  if (!cluster) return;
  const wanted = cluster.containers.filter(matches);
  const all = cluster.count.containers, shown = cluster.containers.length;
  const text = `${wanted.length} of ${shown}${shown < all ? ` (of ${all}; ovn-docker ls shows all)` : ''}`;
  if (byId('found').textContent !== text) byId('found').textContent = text;
  byId('drawing').querySelector('svg')?.classList.toggle('some', wanted.length < shown);
  const ids = new Set(wanted.map(one => one.id));
  for (const [id, tile] of tiles) tile.classList.toggle('match', ids.has(id));
}
function press(button, what) {
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', on);
    what(on);
  });
}
byId('search').addEventListener('input', () => { search(); if (cluster) tables.containers.show(cluster.containers); });
press(byId('only'), on => { onlyFaulty = on; search(); if (cluster) tables.containers.show(cluster.containers); });
press(byId('zoom'), on => byId('drawing').classList.toggle('full', on));

// Picture
function load(path) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open('GET', path);
    request.responseType = 'document';
    request.timeout = TIMEOUT;
    request.onload = () => request.status === 200 && request.responseXML ? done(request.responseXML) : failed();
    request.onerror = request.ontimeout = failed;
    request.send();
  });
}
async function draw(wanted) {
  if (wanted === drawn) return;
  const drawing = byId('drawing');
  if (!wanted) {
    drawing.replaceChildren();
    tiles = new Map();
    drawn = wanted;
    byId('picture-note').textContent = 'Too many containers for a picture: see the tables.';
    return;
  }
  const focus = document.activeElement?.closest?.('.container')?.dataset.id;
  const svg = document.importNode((await load('picture.svg')).documentElement, true);
  byId('picture-note').textContent = 'Choose a container for its details. A bar shows its traffic.';
  svg.setAttribute('role', 'group');
  svg.setAttribute('aria-label', 'Containers, by host and network; arrow keys lead from one to the next');
  drawing.replaceChildren(svg);
  if (!drawn && drawing.clientWidth < READABLE * Number(svg.getAttribute('width'))) byId('zoom').click();
  drawn = wanted;
  tiles = new Map([...svg.querySelectorAll('.container')].map(tile => [tile.dataset.id, tile]));
  const order = [...tiles.values()];
  order.forEach((tile, number) => {
    tile.setAttribute('tabindex', number ? '-1' : '0');
    tile.setAttribute('role', 'button');
    tile.setAttribute('aria-label', tile.querySelector('title').textContent.replaceAll('\n', ', '));
    const act = () => {
      const one = cluster.containers.find(one => one.id === tile.dataset.id);
      if (one) open(one);
    };
    tile.addEventListener('click', act);
    tile.addEventListener('keydown', event => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); act(); }
      if (!step) return;
      event.preventDefault();
      const next = order[(number + step + order.length) % order.length];
      tile.setAttribute('tabindex', '-1');
      next.setAttribute('tabindex', '0');
      next.focus();
    });
  });
  if (focus !== undefined) tiles.get(focus)?.focus();
}
function bars() {
  for (const one of cluster.containers) {
    const tile = tiles.get(one.id), box = tile?.querySelector('.tile');
    if (!box) continue;
    let bar = tile.querySelector('.load');
    if (!bar) {
      bar = document.createElementNS(box.namespaceURI, 'rect');
      const edge = Number(box.getAttribute('y')) + Number(box.getAttribute('height'));
      for (const [name, value] of [['class', 'load'], ['x', Number(box.getAttribute('x')) + 2], ['y', edge - 4],
        ['height', 3], ['rx', 1.5]]) bar.setAttribute(name, value);
      tile.append(bar);
    }
    const bytes = one.traffic ? one.traffic[0] + one.traffic[1] : 0;
    const part = Math.min(Math.log10(1 + bytes) / 9, 1);
    bar.setAttribute('width', (part * (Number(box.getAttribute('width')) - 4)).toFixed(1));
  }
}

// Faults
function commands(finding) {
  const prompt = finding.where ? `${finding.where}$` : '$';
  return finding.commands.map(command => `${prompt} ${command}`).join('\n');
}
function renew(list, items, makeItem) {
  const shown = JSON.stringify(items);
  if (list.shown === shown) return;
  list.shown = shown;
  list.replaceChildren(...items.map(makeItem));
}
function showFaults(doctor) {
  const findings = [...doctor ? doctor.findings : [], ...cluster ? cluster.findings : []], problems = cluster ? cluster.problems : [];
  const count = findings.length + problems.length;
  byId('fault-count').textContent = count || '';
  let text = 'The doctor has not finished yet.';
  if (doctor?.problem) text = doctor.problem;
  else if (doctor) {
    const made = doctor.checks - doctor.unknown;
    const without = doctor.unknown ? `, ${doctor.unknown} could not be made` : '';
    text = `The doctor made ${made} checks at ${clock(doctor.taken)}${without}: `
      + (doctor.findings.length ? `${doctor.findings.length} found.` : 'nothing found.');
  }
  if (byId('doctor-state').textContent !== text) byId('doctor-state').textContent = text;
  renew(byId('findings'), findings, finding => {
    const item = make('li', undefined, finding.severity);
    item.append(make('strong', finding.severity === 'fail' ? 'fault' : 'warning',
      finding.severity === 'fail' ? 'bad' : 'warn'));
    item.append(` ${finding.check}: ${finding.evidence}`, make('br'), `cure: ${finding.cure}`);
    if (finding.commands.length) item.append(make('pre', commands(finding)));
    return item;
  });
  byId('differences-title').hidden = !problems.length;
  renew(byId('differences'), problems, text => make('li', text));
}

// Details of a container or a network
const details = byId('details');
async function open(one) {
  opened = one.id;
  byId('details-title').textContent = one.name;
  byId('facts').replaceChildren(make('dt', 'reading \u2026'));
  byId('traced').hidden = true;
  const container = 'network' in one;
  byId('trace').hidden = !container;
  if (container) {
    const others = cluster.containers.filter(other => other.id !== one.id);
    others.sort((a, b) => (b.network === one.network) - (a.network === one.network));
    byId('target').replaceChildren(...others.slice(0, TARGETS).map(other => {
      const option = make('option', `${other.name} (${other.network}, ${other.host})`);
      option.value = other.id;
      return option;
    }));
    byId('run').disabled = !others.length;
  }
  showTraffic();
  if (!details.open) details.showModal();
  const lines = await ask(`inspect.json?id=${encodeURIComponent(one.id)}`).catch(error => [['!', error.message]]);
  if (opened !== one.id) return;
  byId('facts').replaceChildren(...lines.flatMap(([word, text]) =>
    [make('dt', word), make('dd', text, word.startsWith('!') ? 'bad' : '')]));
}
function showTraffic() {
  const one = [...cluster.containers, ...cluster.networks].find(one => one.id === opened);
  let text = 'It is gone.';
  if (one) text = one.traffic ? `sends ${sent(one.traffic)}, receives ${received(one.traffic)}`
    : 'Its traffic is known on its host only.';
  if (byId('details-traffic').textContent !== text) byId('details-traffic').textContent = text;
}
details.addEventListener('close', () => { opened = null; });
details.addEventListener('click', event => { if (event.target === details) details.close(); });
byId('close').addEventListener('click', () => details.close());
byId('run').addEventListener('click', async () => {
  const from = opened, box = byId('traced');
  const query = new URLSearchParams({ from, to: byId('target').value, packet: byId('packet').value.trim() });
  box.hidden = false;
  box.textContent = 'tracing \u2026';
  let text = null;
  while (text === null && opened === from) {
    text = await ask(`trace.json?${query}`).catch(error => error.message);
    if (text === null) await new Promise(done => setTimeout(done, WAITING));
  }
  if (opened === from) box.textContent = text;
});

// Polling
let now = 0;
async function ask(path) {
  const reply = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
  now = Date.parse(reply.headers.get('Date')) / 1000;
  if (reply.status === 204) return undefined;
  if (reply.status === 503) throw new Error('busy: try again in a moment');
  if (reply.status === 404) throw new Error('it is gone');
  if (!reply.ok) throw new Error(`refused (${reply.status}): reload this page`);
  return reply.json();
}
function contact(good, text) {
  const place = byId('contact');
  place.className = good ? 'ok' : 'bad';
  if (place.textContent !== text) place.textContent = text;
}
function summary() {
  const { count } = cluster, wrong = cluster.problems.length;
  const whose = count.measured > 1 ? `${count.measured} hosts` : 'this host';
  const items = [
    [count.hosts, cluster.underlay ? 'VMs' : 'hosts', ''], [count.networks, 'networks', ''],
    [count.containers, 'containers', ''],
    [sent(cluster.traffic), `sent by those of ${whose}`, ''], [received(cluster.traffic), 'received by them', ''],
    [wrong || 'none', 'differences', wrong ? 'bad' : 'ok'],
  ];
  const list = byId('summary');
  items.forEach(([value, text, tone], number) => {
    const item = list.children[number] || list.appendChild(make('li'));
    if (!item.firstChild) item.append(make('b'), make('span', text));
    item.className = tone;
    if (item.firstChild.textContent !== String(value)) item.firstChild.textContent = value;
    if (item.lastChild.textContent !== text) item.lastChild.textContent = text;
  });
}
async function poll() {
  let wait = INTERVAL;
  try {
    const state = await ask(`state.json?after=${encodeURIComponent(version)}`);
    if (state) {
      version = state.version;
      if (state.cluster) {
        cluster = state.cluster;
        heard = performance.now();
        await draw(state.picture).catch(() => {});
        for (const [name, table] of Object.entries(tables)) table.show(cluster[name]);
        summary();
        search();
        bars();
        if (opened !== null) showTraffic();
      } else wait = WAITING;
      showFaults(state.doctor);
    } else if (!cluster) wait = WAITING;
    if (cluster && performance.now() - heard > SILENT) contact(false, `no new reading since ${clock(cluster.taken)}`);
    else if (cluster && now - cluster.taken > OLD) {
      contact(true, `as of ${clock(cluster.taken)}`);
      wait = WAITING;
    } else if (cluster) contact(true, 'live');
  } catch (error) {
    contact(false, cluster ? `no answer since ${clock(cluster.taken)}: ${error.message}` : error.message);
  }
  document.documentElement.dataset.version = version;
  if (document.hidden) document.addEventListener('visibilitychange', poll, { once: true });
  else setTimeout(poll, wait);
}
poll();
