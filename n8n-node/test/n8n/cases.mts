/** All cases that pass in every supported version of n8n. */
import { checkCases } from './checking.mjs';
import { essentialCases } from './essential.mjs';
import { exampleCases } from './examples.mjs';
import { countdownCases, rentedCases } from './machines.mjs';
import { parkedCases } from './parked.mjs';
import { pickerCases } from './picker.mjs';
import { rentingCases } from './renting.mjs';
import { sharingCases } from './sharing.mjs';
import type { Stage } from './stage.mjs';
import { storeCases } from './store.mjs';
import { strangerCases } from './strangers.mjs';
import { webhookCases } from './webhook.mjs';

export function everyCase(stage: () => Stage, version: string): void {
	essentialCases(stage);
	storeCases(stage, /^filesystem/);
	checkCases(stage);
	sharingCases(stage);
	webhookCases(stage);
	parkedCases(stage);
	strangerCases(stage);
	countdownCases(stage);
	rentedCases(stage);
	rentingCases(stage);
	exampleCases(stage, version);
	pickerCases(stage, version);
}
