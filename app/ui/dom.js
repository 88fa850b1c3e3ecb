// Describes elements as plain objects and brings the page to that description, changing only what differs, so that a
// view may be drawn anew each second without losing focus, typed text, scroll position or an open <details>.
// It must never set markup from a string: text from the gateway can only become text.

const SVG = "http://www.w3.org/2000/svg";

/** An element description. `props`: attributes, `on…` handlers, `styles` (CSS properties), `key`, `value`, `checked`. */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children: children.flat(Infinity).filter((child) => child != null && child !== false) };
}

/** Makes the children of `parent` match the descriptions. */
export function draw(parent, ...children) {
  patchChildren(parent, children.flat(Infinity).filter((child) => child != null && child !== false), parent.namespaceURI);
}

function patchChildren(parent, wanted, namespace) {
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.uiKey != null) keyed.set(node.uiKey, node);
  let current = parent.firstChild;
  for (const child of wanted) {
    const key = child.props?.key;
    let node = key != null ? keyed.get(String(key)) : current;
    if (node && key == null && node.uiKey != null) node = undefined;
    if (node && matches(node, child)) {
      if (node !== current) parent.insertBefore(node, current);
      else current = current.nextSibling;
      update(node, child, namespace);
    } else {
      parent.insertBefore(create(child, namespace), current);
    }
  }
  while (current) {
    const next = current.nextSibling;
    current.remove();
    current = next;
  }
}

function matches(node, child) {
  if (typeof child !== "object") return node.nodeType === Node.TEXT_NODE;
  return node.nodeType === Node.ELEMENT_NODE && node.localName === child.tag && (node.uiKey ?? null) === keyOf(child);
}

function keyOf(child) {
  return child.props.key == null ? null : String(child.props.key);
}

function create(child, namespace) {
  if (typeof child !== "object") return document.createTextNode(String(child));
  const inner = child.tag === "svg" ? SVG : namespace;
  const node = document.createElementNS(inner, child.tag);
  node.uiKey = keyOf(child) ?? undefined;
  update(node, child, inner);
  return node;
}

function update(node, child, namespace) {
  if (typeof child !== "object") {
    if (node.data !== String(child)) node.data = String(child);
    return;
  }
  updateProps(node, child.props);
  if (child.props.opaque) return;
  patchChildren(node, child.children, child.tag === "svg" ? SVG : namespace);
}

function updateProps(node, props) {
  const before = node.uiProps ?? {};
  for (const name of Object.keys(before)) if (!(name in props)) setProp(node, name, null, before[name]);
  for (const [name, value] of Object.entries(props)) if (value !== before[name]) setProp(node, name, value, before[name]);
  node.uiProps = props;
}

function setProp(node, name, value, before) {
  if (name === "key" || name === "opaque") return;
  if (name.startsWith("on")) {
    node[name.toLowerCase()] = value;
  } else if (name === "styles") {
    // Through the object model: a style attribute would be refused by the content security policy.
    for (const property of Object.keys(before ?? {})) if (!(property in (value ?? {}))) node.style.removeProperty(property);
    for (const [property, setting] of Object.entries(value ?? {})) node.style.setProperty(property, setting);
  } else if (name === "value" || name === "checked") {
    // What a person is typing belongs to that person.
    if (node !== document.activeElement) node[name] = value ?? "";
  } else if (value == null || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}
