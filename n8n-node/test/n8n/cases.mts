/** All cases that pass in every supported version of n8n. */
import { checkCases } from './checking.mjs';
import { essentialCases } from './essential.mjs';
import { exampleCases } from './examples.mjs';
import { countdownCases } from './machines.mjs';
import { parkedCases } from './parked.mjs';
import { pickerCases } from './picker.mjs';
import { sharingCases } from './sharing.mjs';
import type { Stage } from './stage.mjs';
import { storeCases } from './store.mjs';
import { webhookCases } from './webhook.mjs';

export function everyCase(stage: () => Stage, version: string): void {
	essentialCases(stage);
	storeCases(stage, /^filesystem/);
	checkCases(stage);
	sharingCases(stage);
	webhookCases(stage);
	parkedCases(stage);
	countdownCases(stage);
	exampleCases(stage, version);
	pickerCases(stage, version);
}
