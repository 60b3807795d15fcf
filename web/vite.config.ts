import { createHash } from "node:crypto"
import { readFileSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { defaultClientConditions, defineConfig, type Plugin } from "vite"

// `npm run dev` asks a service on port 8000, or the one that DARKROOM names.
const service = process.env.DARKROOM ?? "http://127.0.0.1:8000"
const paths =
  "^/(api|tasks|images|models|loras|status|health|edit-modes|png-info|create_session|list_sessions|post_session_image|delete_session|train_lora|upscale/networks)(/|\\?|$)"

const SOURCES = ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"]

/** Writes of which sources the build was made, so that a test without Node can tell an old build. */
function writesSources(): Plugin {
  return {
    name: "sources",
    generateBundle() {
      const inner = readdirSync("src", { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
      const names = [...SOURCES, ...inner.map(entry => join(entry.parentPath, entry.name))].sort()
      const digests = names.map(name => [name, createHash("sha256").update(readFileSync(name)).digest("hex")])
      const source = JSON.stringify(Object.fromEntries(digests), null, 1) + "\n"
      this.emitFile({ type: "asset", fileName: "sources.json", source })
    },
  }
}

/** Writes the license of ONNX Runtime, whose files Vite does not see as bundled ones. */
function writesRuntimeLicense(): Plugin {
  const { name, version } = JSON.parse(readFileSync("node_modules/onnxruntime-web/package.json", "utf8"))
  const text = readFileSync("src/upscaler/onnxruntime.license.txt", "utf8")
  return {
    name: "runtime-license",
    generateBundle() {
      this.emitFile({ type: "asset", fileName: "onnxruntime.license.txt", source: `${name} ${version}\n\n${text}` })
    },
  }
}

/** Writes into the service worker which files a first visit needs, and which there are. Its name has no hash. */
function writesServiceWorker(): Plugin {
  return {
    name: "service-worker",
    enforce: "post",
    generateBundle(_options, bundle) {
      const all = Object.keys(bundle).filter(name => name.startsWith("assets/")).sort()
      const page = Object.values(bundle).find(one => one.fileName === "index.html")
      const worker = bundle["sw.js"]
      if (page?.type !== "asset" || worker?.type !== "chunk") throw new Error("There is no index.html or no sw.js.")
      const html = String(page.source)
      const first = all.filter(name => html.includes(name))
      worker.code = worker.code.replace(/^/, `const FILES = ${JSON.stringify({ first, all })};\n`)
    },
  }
}

export default defineConfig({
  base: "./",
  plugins: [writesSources(), writesServiceWorker(), writesRuntimeLicense()],
  // ONNX Runtime's files stay files of their own, so that each browser gets the one that it can use.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", ...defaultClientConditions] },
  worker: { format: "es" },
  build: {
    outDir: process.env.OUT ?? "../proxy/web",
    emptyOutDir: true,
    target: "es2022",
    cssTarget: ["chrome123", "firefox120", "safari17.5"], // light-dark() as it is
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { main: "index.html", sw: "src/sw.ts" },
      output: { entryFileNames: chunk => (chunk.name === "sw" ? "sw.js" : "assets/[name]-[hash].js") },
    },
    license: { fileName: "licenses.md" },
  },
  server: { proxy: { [paths]: { target: service, changeOrigin: true } } },
})
