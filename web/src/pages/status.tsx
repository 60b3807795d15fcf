import { useEffect, useState } from "preact/hooks"
import { Problem } from "../components/controls"
import { message } from "../lib/api"
import { ask } from "../lib/api"
import { duration, t } from "../lib/i18n"
import { loadModels, models } from "../lib/models"
import type { FamilyHealth, Health, Status, TritonStatus } from "../lib/types"

const EVERY_MS = 3000

interface Said {
  health: Health
  status: Status
}

async function read(): Promise<Said> {
  const [health, status] = await Promise.all([healthOf(), ask("status")])
  return { health, status: (await status.json()) as Status }
}

/** `/health` answers in the same shape with 503 while the models are not ready. */
async function healthOf(): Promise<Health> {
  return (await fetch("health")).json() as Promise<Health>
}

export function StatusPage() {
  const [said, setSaid] = useState<Said | null>(null)
  const [problem, setProblem] = useState("")
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined
    let over = false
    const look = (): void =>
      void read()
        .then(found => { setSaid(found); setProblem("") }, error => setProblem(message(error)))
        .finally(() => { if (!over) timer = setTimeout(look, EVERY_MS) })
    look()
    void loadModels()
    return () => {
      over = true
      clearTimeout(timer)
    }
  }, [])
  return (
    <section aria-labelledby="status-title">
      <h1 id="status-title">{t("status.title")}</h1>
      {problem ? <Problem text={problem} /> : null}
      {said ? <Facts {...said} /> : null}
      {said && said.status.tritons.length > 1 ? <Tritons all={said.status.tritons} /> : null}
      <Models />
      <p><a href="docs">{t("status.api")}</a></p>
    </section>
  )
}

function Facts({ health, status }: Said) {
  const facts: [string, string][] = [
    [t("status.service"), t(`status.${health.status}`)],
    [t("status.active"), `${status.active_tasks} / ${status.max_concurrent_tasks}`],
    [t("status.waiting"), `${Math.max(0, status.pending_tasks - status.active_tasks)} / ${status.max_queue_size}`],
    [t("status.finished"), String(status.finished_tasks)],
    [t("status.uptime"), duration(status.uptime_seconds)],
    [t("status.version"), health.darkroom_version],
  ]
  return (
    <>
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {health.reason ? <p class="notice">{health.reason}</p> : null}
      <h2>{t("status.gpus")}</h2>
      {status.gpu_info.length ? null : <p class="quiet">{t("status.nogpu")}</p>}
      <ul class="plain-list">
        {status.gpu_info.map(gpu => (
          <li key={gpu.gpu_id}>
            {gpu.gpu_id}: {gpu.name}, {t("status.memory")} {gpu.memory_allocated.toFixed(1)} GiB
          </li>
        ))}
      </ul>
    </>
  )
}

function Tritons({ all }: { all: TritonStatus[] }) {
  const ready = (families: Record<string, FamilyHealth>): string =>
    Object.keys(families).filter(name => families[name]?.ready).join(", ")
  return (
    <>
      <h2>{t("status.tritons")}</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label={t("status.tritons")}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t("status.address")}</th>
              <th scope="col">{t("status.calls")}</th>
              <th scope="col">{t("status.models")}</th>
              <th scope="col">{t("status.state")}</th>
            </tr>
          </thead>
          <tbody>
            {all.map(one => (
              <tr key={one.address}>
                <th scope="row"><code>{one.address}</code></th>
                <td>{one.active_calls}</td>
                <td>{ready(one.families) || "–"}</td>
                <td class={one.ready ? "good" : "bad"} title={one.reason}>
                  {t(one.ready ? "status.ready" : "status.loading")}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  )
}

function Models() {
  const state = (installed: boolean, ready: boolean): string =>
    t(!installed ? "status.missing" : ready ? "status.ready" : "status.loading")
  return (
    <>
      <h2>{t("status.models")}</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label={t("status.models")}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t("status.model")}</th>
              <th scope="col">{t("status.checkpoint")}</th>
              <th scope="col">{t("status.operations")}</th>
              <th scope="col">{t("status.state")}</th>
            </tr>
          </thead>
          <tbody>
            {models.value.map(one => (
              <tr key={one.name}>
                <th scope="row">{one.title} <code>{one.name}</code></th>
                <td>{one.checkpoint?.name ?? "–"}</td>
                <td>{one.operations.map(name => t(`operation.${name as "generate"}`)).join(", ")}</td>
                <td class={one.ready ? "good" : one.installed ? "bad" : "quiet"} title={one.hint}>
                  {state(one.installed, one.ready)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  )
}
