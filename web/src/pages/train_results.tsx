import { signal } from "@preact/signals"
import { useEffect, useState } from "preact/hooks"
import { ServerImage } from "../components/server_image"
import { json } from "../lib/api"
import { t } from "../lib/i18n"
import { urlOf } from "../lib/tasks"
import type { Result, Task, Training } from "../lib/types"

/** What this page has heard of the losses of trainings, by the task's id. */
const losses = signal<Record<string, { step: number; loss: number }[]>>({})
const WIDTH = 300
const HEIGHT = 60

/** Ask how far a training is, and remember its loss. @throws Refused */
export async function look(session: string): Promise<void> {
  const said = await json<Training>("train_status", { session_id: session })
  const { task_id: id, step, loss } = said
  if (id === undefined || step === undefined || typeof loss !== "number") return
  const known = losses.value[id] ?? []
  if (known.at(-1)?.step !== step) losses.value = { ...losses.value, [id]: [...known, { step, loss }] }
}

/** The loss of a training that runs: the last one, and the curve since the page was opened. */
export function Losses({ training }: { training: Training }) {
  const heard = losses.value[training.task_id ?? ""] ?? []
  const last = heard.at(-1)
  if (!last) return null
  const name = t("train.loss", { loss: last.loss.toPrecision(3) })
  const most = Math.max(...heard.map(one => one.loss))
  const from = heard[0]!.step
  const points = heard.map(({ step, loss }) => {
    const x = (WIDTH * (step - from)) / Math.max(1, last.step - from)
    return `${x.toFixed(1)},${(HEIGHT - (HEIGHT * loss) / most).toFixed(1)}`
  })
  return (
    <figure class="losses">
      <figcaption>{name}</figcaption>
      {heard.length > 1 ? (
        <svg viewBox={`-2 -2 ${WIDTH + 4} ${HEIGHT + 4}`} role="img" aria-label={t("train.curve")}>
          <polyline points={points.join(" ")} />
        </svg>
      ) : null}
    </figure>
  )
}

/** What a finished training has left: the curve of its losses, and its sample images. */
export function Outcome({ id }: { id: string }) {
  const [task, setTask] = useState<Task | null>(null)
  useEffect(() => {
    json<Task>(`tasks/${id}`).then(setTask, () => undefined) // its files may be deleted already
  }, [id])
  if (!task) return null
  const images = task.results.filter(one => one.media_type.startsWith("image/"))
  const curve = images.find(one => one.media_type === "image/svg+xml")
  const samples = images.filter(one => one !== curve)
  return (
    <div class="outcome">
      {curve ? (
        <figure>
          <figcaption>{t("train.curve")}</figcaption>
          <ServerImage class="curve" path={urlOf(curve, task)} alt={t("train.curve")} />
        </figure>
      ) : null}
      {samples.length ? (
        <figure>
          <figcaption>{t("train.samples")}</figcaption>
          <div class="samples">
            {samples.map(one => <ServerImage key={one.name} path={urlOf(one, task)} alt={sampleName(one)} />)}
          </div>
        </figure>
      ) : null}
    </div>
  )
}

function sampleName({ details }: Result): string {
  return t("train.sample", { epoch: Number(details.epoch), prompt: String(details.prompt) })
}
