// Builds the bundle into dist/: every asset carries a hash of its content in its name, so that
// spa-proxy may let browsers keep it for ever; index.html is the only name that stays.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, "dist");

await rm(dist, { recursive: true, force: true });
await mkdir(join(dist, "assets"), { recursive: true });

const result = await build({
  absWorkingDir: root,
  // `boot` sets the theme before the first paint; the content security policy allows no inline
  // script, so it is a file of its own.
  entryPoints: { app: "src/main.tsx", boot: "src/boot.ts", style: "src/styles/index.css" },
  outdir: "dist/assets",
  entryNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  metafile: true,
  format: "esm",
  target: ["es2022", "chrome123", "firefox120", "safari17.5"],
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"' },
  legalComments: "none",
  logLevel: "warning",
});

/** The hashed file that came from one entry point. */
function output(entry) {
  for (const [file, meta] of Object.entries(result.metafile.outputs)) {
    if (meta.entryPoint === entry) return `/assets/${basename(file)}`;
  }
  throw new Error(`no output for ${entry}`);
}

/** Subresource integrity of a built file: index.html vouches for exactly these bytes. */
async function integrity(href) {
  const digest = createHash("sha384").update(await readFile(join(dist, href))).digest("base64");
  return `sha384-${digest}`;
}

const icon = await readFile(join(root, "public/icon.svg"));
const iconName = `icon-${createHash("sha256").update(icon).digest("hex").slice(0, 8)}.svg`;
await cp(join(root, "public/icon.svg"), join(dist, "assets", iconName));

const app = output("src/main.tsx");
const boot = output("src/boot.ts");
const style = output("src/styles/index.css");
const template = await readFile(join(root, "public/index.html"), "utf8");
const values = {
  APP: app,
  APP_INTEGRITY: await integrity(app),
  BOOT: boot,
  BOOT_INTEGRITY: await integrity(boot),
  STYLE: style,
  STYLE_INTEGRITY: await integrity(style),
  ICON: `/assets/${iconName}`,
};
const html = template.replace(/%([A-Z_]+)%/g, (_, name) => {
  if (!(name in values)) throw new Error(`index.html names %${name}%, which the build does not know`);
  return values[name];
});
await writeFile(join(dist, "index.html"), html);

// spa-proxy picks the variant that the browser accepts; nothing is compressed per request.
for (const file of ["index.html", app, boot, style, values.ICON].map((name) => join(dist, name))) {
  const bytes = await readFile(file);
  const params = { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY };
  await writeFile(`${file}.br`, brotliCompressSync(bytes, { params }));
  await writeFile(`${file}.gz`, gzipSync(bytes, { level: 9 }));
}

const sizes = Object.entries(result.metafile.outputs).map(
  ([file, meta]) => `  ${file}  ${(meta.bytes / 1024).toFixed(1)} KiB`,
);
console.error(`built spa-proxy/web/dist\n${sizes.join("\n")}`);
