import { createHash } from "node:crypto"
import { readFileSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { defineConfig, type Plugin } from "vite"

// `npm run dev` asks a service on port 8000, or the one that DARKROOM names.
const service = process.env.DARKROOM ?? "http://127.0.0.1:8000"
const paths =
  "^/(api|tasks|images|models|loras|status|health|edit-modes|png-info|create_session|list_sessions|post_session_image|delete_session|train_lora)(/|\\?|$)"

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

export default defineConfig({
  base: "./",
  plugins: [writesSources()],
  build: {
    outDir: process.env.OUT ?? "../proxy/web",
    emptyOutDir: true,
    target: "es2022",
    cssTarget: ["chrome123", "firefox120", "safari17.5"], // light-dark() as it is
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
  server: { proxy: { [paths]: { target: service, changeOrigin: true } } },
})
