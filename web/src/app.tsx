import { effect } from "@preact/signals"
import { useEffect, useState } from "preact/hooks"
import { Dialog } from "./components/dialog"
import { imagesIn } from "./components/image_input"
import { Viewer } from "./components/viewer"
import { key, keyDeclined, keyWanted, message, online } from "./lib/api"
import { fillFrom, notice } from "./lib/create"
import { language, t, type Language } from "./lib/i18n"
import { loadModels, models, modelsKnown } from "./lib/models"
import { page, PAGES, type Page } from "./lib/route"
import { addToEdit, addToUpscale } from "./lib/sending"
import { kept } from "./lib/stored"
import { refresh } from "./lib/tasks"
import { CreatePage } from "./pages/create"
import { EditPage } from "./pages/edit"
import { GalleryPage } from "./pages/gallery"
import { StatusPage } from "./pages/status"
import { TrainPage } from "./pages/train"
import { UpscalePage } from "./pages/upscale"

type Theme = "auto" | "light" | "dark"
const theme = kept<Theme>("theme", "auto")

effect(() => {
  document.documentElement.dataset.theme = theme.value
})
effect(() => {
  document.title = `${t(`nav.${page.value}`)} · Darkroom`
})

const SHOWN: Record<Page, () => preact.JSX.Element> = {
  create: CreatePage,
  gallery: GalleryPage,
  upscale: UpscalePage,
  edit: EditPage,
  train: TrainPage,
  status: StatusPage,
}

export function App() {
  const Shown = SHOWN[page.value]
  useEffect(() => {
    void loadModels()
    void refresh()
  }, [])
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>{t("nav.skip")}</a>
      <Header />
      <Banner />
      <main id="main" tabIndex={-1}>
        <Shown />
      </main>
      <Viewer />
      <KeyDialog />
      <PageDrop />
    </>
  )
}

/** The part behind # names the page, so that the link must not change it. */
function skip(event: Event): void {
  event.preventDefault()
  document.getElementById("main")?.focus()
}

function Header() {
  return (
    <header class="top">
      <a class="brand" href="#/create">Darkroom</a>
      <nav aria-label={t("nav.pages")}>
        {PAGES.map(name => (
          <a key={name} href={`#/${name}`} aria-current={page.value === name ? "page" : undefined}>
            {t(`nav.${name}`)}
          </a>
        ))}
      </nav>
      <div class="top-tools">
        {key.value || keyDeclined.value !== null ? (
          <button type="button" class="plain" onClick={() => (keyWanted.value = true)}>{t("key.change")}</button>
        ) : null}
        <select
          aria-label={t("theme.name")}
          value={theme.value}
          onChange={event => (theme.value = event.currentTarget.value as Theme)}
        >
          {(["auto", "light", "dark"] as const).map(one => <option key={one} value={one}>{t(`theme.${one}`)}</option>)}
        </select>
        <select
          aria-label={t("language.name")}
          value={language.value}
          onChange={event => (language.value = event.currentTarget.value as Language)}
        >
          <option value="en" lang="en">English</option>
          <option value="zh" lang="zh-Hant">繁體中文</option>
        </select>
      </div>
    </header>
  )
}

/** What holds for all pages: no answer, or models that are not ready yet. */
function Banner() {
  const there = models.value.filter(model => model.installed)
  const starting = modelsKnown.value && there.some(model => !model.ready)
  const text = !online.value ? t("offline") : starting ? t("starting") : ""
  return (
    <div role="status" class={text ? "banner" : "visually-hidden"}>
      {text}
    </div>
  )
}

function KeyDialog() {
  const [text, setText] = useState("")
  if (!keyWanted.value) return null
  const save = (event: Event): void => {
    event.preventDefault()
    key.value = text.trim()
    keyDeclined.value = null
    keyWanted.value = false
    void loadModels()
    void refresh()
  }
  const decline = (): void => {
    keyDeclined.value = key.value
    keyWanted.value = false
  }
  return (
    <Dialog title={t("key.title")} onClose={decline}>
      <form class="stack" onSubmit={save}>
        <p>{t("key.explain")}</p>
        <label class="field">
          <span>{t("key.label")}</span>
          <input
            type="password"
            autocomplete="current-password"
            value={text}
            onInput={event => setText(event.currentTarget.value)}
          />
        </label>
        <button class="primary">{t("key.save")}</button>
      </form>
    </Dialog>
  )
}

/** Images that are dropped beside any field: the pages of images take them, and of others their settings are read. */
async function take(files: File[]): Promise<void> {
  if (page.value === "upscale") return addToUpscale(files)
  if (page.value === "edit") return addToEdit(files)
  const [file] = files
  if (file === undefined) return
  try {
    notice.value = t((await fillFrom(file)) ? "create.filled" : "create.nothing", { name: file.name })
  } catch (error) {
    notice.value = message(error)
  }
}

function PageDrop() {
  const [over, setOver] = useState(false)
  useEffect(() => {
    const hasFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false
    const dragged = (event: DragEvent): void => {
      if (!hasFiles(event)) return
      event.preventDefault()
      setOver(true)
    }
    const left = (event: DragEvent): void => {
      if (event.relatedTarget === null) setOver(false)
    }
    const ended = (): void => setOver(false)
    const dropped = (event: DragEvent): void => {
      if (!hasFiles(event)) return
      event.preventDefault()
      void take(imagesIn(event.dataTransfer))
    }
    const pasted = (event: ClipboardEvent): void => {
      const files = imagesIn(event.clipboardData)
      if (files.length && !event.defaultPrevented) void take(files)
    }
    addEventListener("dragover", dragged)
    addEventListener("dragleave", left)
    addEventListener("drop", ended, true) // also for drops that a field takes
    addEventListener("drop", dropped)
    addEventListener("paste", pasted)
    return () => {
      removeEventListener("dragover", dragged)
      removeEventListener("dragleave", left)
      removeEventListener("drop", ended, true)
      removeEventListener("drop", dropped)
      removeEventListener("paste", pasted)
    }
  }, [])
  const reads = page.value !== "upscale" && page.value !== "edit"
  return over && reads ? <div class="drop-note" aria-hidden="true">{t("drop.here")}</div> : null
}
