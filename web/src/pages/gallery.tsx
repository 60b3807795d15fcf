import { signal } from "@preact/signals"
import { useEffect } from "preact/hooks"
import { TaskCard, promptOf } from "../components/task_card"
import { t } from "../lib/i18n"
import { isLive, refresh, tasksKnown, visible } from "../lib/tasks"
import type { Task } from "../lib/types"

const FILTERS = {
  all: () => true,
  running: isLive,
  done: (task: Task) => task.status === "completed",
  failed: (task: Task) => task.status === "failed" || task.status === "cancelled",
}
type Filter = keyof typeof FILTERS

const filter = signal<Filter>("all")
const search = signal("")

export function GalleryPage() {
  useEffect(() => void refresh(), [])
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean)
  const shown = visible.value
    .filter(FILTERS[filter.value])
    .filter(task => words.every(word => promptOf(task).toLowerCase().includes(word)))
  return (
    <section aria-labelledby="gallery-title">
      <div class="page-head">
        <h1 id="gallery-title">{t("gallery.title")}</h1>
        <div class="segments" role="group" aria-label={t("gallery.filter")}>
          {(Object.keys(FILTERS) as Filter[]).map(name => (
            <button key={name} type="button" aria-pressed={filter.value === name} onClick={() => (filter.value = name)}>
              {t(`gallery.${name}`)}
            </button>
          ))}
        </div>
        <input
          type="search"
          aria-label={t("gallery.search")}
          placeholder={t("gallery.search")}
          value={search.value}
          onInput={event => (search.value = event.currentTarget.value)}
        />
      </div>
      {shown.length ? (
        <div class="tasks">{shown.map(task => <TaskCard key={task.task_id} task={task} />)}</div>
      ) : (
        <p class="empty">{t(tasksKnown.value ? "gallery.empty" : "loading")}</p>
      )}
      <p class="quiet">{t("gallery.note")}</p>
    </section>
  )
}
