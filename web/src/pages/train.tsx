import { signal } from "@preact/signals"
import { useEffect, useState } from "preact/hooks"
import { NumberInput, Problem } from "../components/controls"
import { DropZone, Thumbnail } from "../components/image_input"
import { json, message } from "../lib/api"
import { chosenLoras, typed } from "../lib/create"
import { t } from "../lib/i18n"
import { go } from "../lib/route"
import { pause, refresh } from "../lib/tasks"
import type { Field, Session } from "../lib/types"
import { Losses, Outcome, look } from "./train_results"

const sessions = signal<Session[]>([])
const known = signal(false)
const EVERY_MS = 2000
/** The ranges of `POST /train_lora`. */
const OPTIONS: Record<string, Field> = {
  steps: { type: "integer", minimum: 1, maximum: 100_000 },
  rank: { type: "integer", minimum: 1, maximum: 128, default: 4 },
  learning_rate: { type: "number", minimum: 1e-8, maximum: 1, default: 1e-4 },
  resolution: { type: "integer", minimum: 64, maximum: 2048, multipleOf: 64 },
  sample_images: { type: "integer", minimum: 0, maximum: 8, default: 0 },
}
const LABELS = {
  steps: "train.steps",
  rank: "train.rank",
  learning_rate: "train.rate",
  resolution: "train.resolution",
  sample_images: "train.samples",
} as const

async function load(): Promise<void> {
  sessions.value = (await json<{ sessions: Session[] }>("list_sessions")).sessions
  known.value = true
  const running = sessions.value.filter(one => one.training.status === "in-progress")
  await Promise.all(running.map(one => look(one.session_id)))
}

export function TrainPage() {
  const [problem, setProblem] = useState("")
  const attempt = (work: Promise<unknown>): void =>
    void work.then(load).then(() => setProblem(""), error => setProblem(message(error)))
  const running = sessions.value.some(one => one.training.status === "in-progress")
  useEffect(() => attempt(Promise.resolve()), [])
  useEffect(() => {
    if (!running) return
    const timer = setInterval(() => void load().catch(() => undefined), EVERY_MS)
    return () => clearInterval(timer)
  }, [running])
  return (
    <section aria-labelledby="train-title">
      <div class="page-head">
        <h1 id="train-title">{t("train.title")}</h1>
        <button type="button" class="primary" onClick={() => attempt(json("create_session"))}>{t("train.new")}</button>
      </div>
      {problem ? <Problem text={problem} /> : null}
      {known.value && !sessions.value.length ? <p class="empty">{t("train.none")}</p> : null}
      {[...sessions.value].reverse().map(one => <SessionPanel key={one.session_id} session={one} attempt={attempt} />)}
    </section>
  )
}

function SessionPanel({ session, attempt }: { session: Session; attempt: (work: Promise<unknown>) => void }) {
  const id = session.session_id
  const use = (): void => {
    chosenLoras.value = [...chosenLoras.value.filter(one => one.session_id !== id), { session_id: id, weight: 1 }]
    go("create")
  }
  const remove = (): void => {
    if (confirm(t("train.sure", { id }))) attempt(json("delete_session", { session_id: id }))
  }
  return (
    <article class="panel" aria-label={t("train.session", { id })}>
      <div class="panel-head">
        <h2>{t("train.session", { id })}</h2>
        <span class="quiet">{t("train.images", { n: session.image_groups })}</span>
        <button type="button" class="plain" aria-label={t("train.delete", { id })} onClick={remove}>{t("remove")}</button>
      </div>
      {session.latest_lora ? (
        <div class="row">
          <span>{t("train.latest", { name: session.latest_lora })}</span>
          <button type="button" onClick={use}>{t("train.use")}</button>
        </div>
      ) : null}
      <TrainingState session={session} attempt={attempt} />
      <AddImages id={id} attempt={attempt} />
      {session.image_groups && session.training.status !== "in-progress" ? <Options id={id} attempt={attempt} /> : null}
    </article>
  )
}

function TrainingState({ session, attempt }: { session: Session; attempt: (work: Promise<unknown>) => void }) {
  const { status, progress, paused, message: reason, task_id: task, step, total_steps: total } = session.training
  if (status === "none") return <p class="quiet">{t("train.state.none")}</p>
  if (status === "error") return <Problem text={reason ?? t("train.state.error")} />
  if (status === "completed")
    return (
      <>
        <p>{t("train.state.completed")}</p>
        {task ? <Outcome key={task} id={task} /> : null}
      </>
    )
  return (
    <div class="row">
      <div class="progress">
        <progress max="100" value={progress} aria-label={t("task.progress")} />
        <span>
          {t(paused ? "task.paused" : "train.state.in-progress")} · {progress} %
          {step && total ? ` · ${t("task.step", { step, total })}` : ""}
        </span>
      </div>
      <Losses training={session.training} />
      {task ? (
        <>
          <button type="button" onClick={() => attempt(pause(task, paused ? "resume" : "pause"))}>
            {t(paused ? "task.resume" : "task.pause")}
          </button>
          <button type="button" onClick={() => attempt(json(`tasks/${task}`, undefined, { method: "DELETE" }))}>
            {t("cancel")}
          </button>
        </>
      ) : null}
    </div>
  )
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader()
    reader.onload = () => resolve(String(reader.result))
    reader.onerror = () => reject(reader.error)
    reader.readAsDataURL(file)
  })
}

function AddImages({ id, attempt }: { id: string; attempt: (work: Promise<unknown>) => void }) {
  const [added, setAdded] = useState<{ file: File; caption: string }[]>([])
  const send = async (): Promise<void> => {
    for (const { file, caption } of added) {
      await json("post_session_image", { session_id: id, image_base64: await dataUrl(file), prompt: caption })
      setAdded(left => left.filter(one => one.file !== file))
    }
  }
  const name = (file: File, caption: string): void =>
    setAdded(all => all.map(one => (one.file === file ? { file, caption } : one)))
  return (
    <form
      class="stack"
      onSubmit={event => {
        event.preventDefault()
        attempt(send())
      }}
    >
      <DropZone
        several
        label={t("train.add")}
        onFiles={files => setAdded(all => [...all, ...files.map(file => ({ file, caption: "" }))])}
      />
      {added.map(({ file, caption }) => (
        <div class="caption" key={file.name}>
          <Thumbnail blob={file} name={file.name} onRemove={() => setAdded(all => all.filter(one => one.file !== file))} />
          <input
            required
            aria-label={t("train.caption", { name: file.name })}
            placeholder={t("train.caption.hint")}
            value={caption}
            onInput={event => name(file, event.currentTarget.value)}
          />
        </div>
      ))}
      {added.length ? <button>{t("train.upload", { n: added.length })}</button> : null}
    </form>
  )
}

function Options({ id, attempt }: { id: string; attempt: (work: Promise<unknown>) => void }) {
  const [values, setValues] = useState<Record<string, string>>({})
  const start = async (): Promise<void> => {
    await json("train_lora", { session_id: id, ...typed(values, OPTIONS) })
    void refresh()
  }
  return (
    <form
      class="grid train-options"
      onSubmit={event => {
        event.preventDefault()
        attempt(start())
      }}
    >
      {Object.entries(OPTIONS).map(([name, field]) => (
        <NumberInput
          key={name}
          name={name}
          field={field}
          label={t(LABELS[name as keyof typeof LABELS])}
          value={values[name] ?? ""}
          onChange={text => setValues({ ...values, [name]: text })}
        />
      ))}
      <button class="primary">{t("train.start")}</button>
    </form>
  )
}
