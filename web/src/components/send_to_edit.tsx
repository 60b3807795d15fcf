import { useState } from "preact/hooks"
import { message } from "../lib/api"
import { t } from "../lib/i18n"
import { send } from "../lib/sending"
import { Problem } from "./controls"

/** A button that takes an image of the service to the page Edit. */
export function SendToEdit({ path, name }: { path: string; name: string }) {
  const [problem, setProblem] = useState("")
  const go = (): void => void send(path, name, "edit").then(undefined, error => setProblem(message(error)))
  return (
    <>
      <button type="button" onClick={go}>{t("viewer.edit")}</button>
      {problem ? <Problem text={problem} /> : null}
    </>
  )
}
