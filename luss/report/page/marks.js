"use strict";
// Names, merges and drops: kept in this browser under the identity of the clustering, written as names.json.
//
// Merged clusters share one name. A cluster is merged or dropped, not both, so that the file says one thing about each.

const marks = (() => {
  const key = `luss-report:${lussData.run.identity}`;
  const known = new Set((lussData.clusters?.rows ?? []).map((row) => row.id));
  let state = {names: {}, merge: [], drop: []};
  let kept = true;
  const listeners = [];

  function read() {
    try {
      // At first the names that the labels have already.
      state = checked(JSON.parse(localStorage.getItem(key)) ?? {names: lussData.threshold?.names ?? {}});
    } catch {
      kept = storageWorks();
    }
  }

  function storageWorks() {
    try {
      localStorage.setItem(`${key}:try`, "1");
      localStorage.removeItem(`${key}:try`);
      return true;
    } catch {
      return false;
    }
  }

  function changed() {
    try {
      localStorage.setItem(key, JSON.stringify(exported()));
      kept = true;
    } catch {
      kept = false;
    }
    listeners.forEach((listener) => listener());
  }

  // The parts of a names.json: without any of them the object is the names, {"3": "dog"}, as `luss labels` reads it.
  const parts = ["names", "merge", "drop", "threshold"];
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  function partsOf(value) {
    if (!isObject(value)) throw new Error('it is not an object such as {"3": "dog"}');
    if (!parts.some((part) => part in value)) return {names: value, merge: [], drop: []};
    const unknown = Object.keys(value).find((key) => !parts.includes(key));
    if (unknown !== undefined) throw new Error(`it has an unknown part ${unknown}: it may have ${parts.join(", ")}`);
    const names = value.names ?? {}, merge = value.merge ?? [], drop = value.drop ?? [];
    if (!isObject(names) || !Array.isArray(merge) || !Array.isArray(drop) || !merge.every(Array.isArray)) {
      throw new Error("names is an object, merge a list of lists and drop a list of cluster ids");
    }
    return {names, merge, drop};
  }

  // What can be used of a names.json; throws on anything else.
  function checked(value) {
    const {names, merge, drop} = partsOf(value);
    const ids = [...Object.keys(names).map(Number), ...merge.flat(), ...drop];
    const unknown = ids.filter((id) => !known.has(id));
    if (unknown.length) throw new Error(`there is no cluster ${unknown[0]} in this run`);
    if (!Object.values(names).every((name) => typeof name === "string")) throw new Error("a name is not text");
    const found = {names: {...names}, merge: [], drop: []};
    const before = state;
    state = found;
    try {
      merge.forEach((group) => group.slice(1).forEach((id) => join(group[0], id)));
      drop.forEach((id) => setDropped(id, true));
    } finally {
      state = before;
    }
    return found;
  }

  function group(id) {
    return state.merge.find((ids) => ids.includes(id)) ?? [id];
  }

  function name(id) {
    return state.names[group(id)[0]] ?? "";
  }

  function setName(id, text) {
    const head = group(id)[0];
    if (text.trim()) state.names[head] = text.trim();
    else delete state.names[head];
  }

  function join(a, b) {
    if (a === b || group(a).includes(b)) return;
    const shared = name(a) || name(b);
    const ids = [...group(a), ...group(b)].sort((x, y) => x - y);
    ids.forEach((id) => delete state.names[id]);
    state.merge = state.merge.filter((other) => !ids.includes(other[0]));
    state.merge.push(ids);
    state.merge.sort((x, y) => x[0] - y[0]);
    state.drop = state.drop.filter((id) => !ids.includes(id));
    setName(ids[0], shared);
  }

  function leave(id) {
    const ids = group(id);
    if (ids.length < 2) return;
    const shared = name(id);
    const rest = ids.filter((other) => other !== id);
    state.merge = state.merge.filter((other) => other !== ids);
    if (rest.length > 1) state.merge.push(rest);
    state.merge.sort((x, y) => x[0] - y[0]);
    ids.forEach((other) => delete state.names[other]);
    setName(rest[0], shared);
  }

  function setDropped(id, dropped) {
    state.drop = state.drop.filter((other) => other !== id);
    if (!dropped) return;
    leave(id);
    state.drop = [...state.drop, id].sort((x, y) => x - y);
  }

  // The content of names.json; a dropped cluster needs no name.
  function exported() {
    const names = Object.fromEntries(Object.entries(state.names).filter(([id]) => !state.drop.includes(Number(id))));
    return {names, merge: state.merge, drop: state.drop};
  }

  read();
  const andSay = (change) => (...values) => {
    change(...values);
    changed();
  };
  return {
    known: (id) => known.has(id),
    name,
    group,
    dropped: (id) => state.drop.includes(id),
    exported,
    kept: () => kept,
    setName: andSay(setName),
    join: andSay(join),
    leave: andSay(leave),
    setDropped: andSay(setDropped),
    replace: andSay((value) => { state = checked(value); }),
    onChange: (listener) => listeners.push(listener),
  };
})();
