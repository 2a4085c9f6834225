const loaded = Object.create(null);
// eslint-disable-next-line no-unused-vars -- by the line after this file
function load(name) {
  const known = loaded[name];
  if (known !== undefined) return known.exports;
  if (modules[name] === undefined) return node(name);
  const module = (loaded[name] = { exports: {} });
  modules[name](module, load);
  return module.exports;
}
