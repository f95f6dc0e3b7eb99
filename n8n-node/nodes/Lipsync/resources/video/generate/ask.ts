/**
 * Reads all fields of the panel for one video into one value, for both versions of the panel.
 *
 * Knows n8n's parameters and the names of the server's form fields.
 */
import {
	NodeOperationError,
	jsonParse,
	type IDataObject,
	type IExecuteFunctions,
} from 'n8n-workflow';

import { PICTURE, RECORDING, SECOND_RECORDING, type WantedInput } from '../../../api/inputs';
import { filePart, type Form } from '../../../api/multipart';
import { numberBetween, text } from '../../../items';
import { locatorValue } from '../jobId';
import { isSimple } from '../output';
import { captionTexts } from './captions';
import { formatTexts } from './format';
import { markingTexts } from './marking';
import { checkTexts } from './check';
import type { Delivery } from './deliver';

const MINUTE_MS = 60_000;

export interface Ask extends Delivery {
	form: Form;
	idempotencyKey: string;
	waits: boolean;
	/** Whether n8n parks the execution until the server calls. */
	parks: boolean;
	limitMs: number;
	/** Whether an AI agent runs the node. Its answer is short, with a link that its user can open. */
	isForAgent: boolean;
}

export async function readAsk(context: IExecuteFunctions, i: number): Promise<Ask> {
	const panel =
		context.getNode().typeVersion < 2 ? panelOfVersion1(context, i) : panelNow(context, i);
	const { scene, options } = panel;
	const texts: Record<string, string> = {
		prompt: text(scene.prompt),
		engine: locatorValue(context.getNodeParameter('engine', i, 'auto')),
		resolution: text(scene.resolution),
		preset: text(scene.preset),
		seed: text(options.seed),
		file_name: text(options.fileName),
		face_box: text(options.faceBox),
		face_index: text(options.faceIndex),
		callback_url: text(options.callbackUrl),
		...captionTexts(panel.captions),
		...formatTexts(panel.format),
		...checkTexts(panel.check),
		...markingTexts(panel.marking),
		options: Object.keys(panel.engineOptions).length > 0 ? JSON.stringify(panel.engineOptions) : '',
	};
	const form: Form = { texts, files: [] };
	await addInput(context, form, PICTURE, i);
	await addInput(context, form, RECORDING, i);
	if (text(scene.secondAudioField)) {
		form.files.push(await filePart(context, i, scene.secondAudioField, SECOND_RECORDING));
	} else {
		texts.second_audio_url = text(scene.secondAudioUrl);
	}
	for (const [name, value] of Object.entries(texts)) {
		if (value === '') delete texts[name];
	}
	const minutes = options.timeoutMinutes ?? 120;
	return {
		form,
		idempotencyKey: text(options.idempotencyKey),
		waits: panel.waits,
		parks: panel.waits && options.park === true && !isTool(context),
		limitMs: numberBetween(context, 'Timeout', minutes, [0.01, 10_080], i) * MINUTE_MS,
		outputField: text(options.outputField) || 'data',
		srtField: text(panel.captions.srtField),
		posterField: text(panel.format.posterField),
		sheetField: text(panel.check.sheetField),
		// A tool of an AI agent cannot return a file, so the agent gets a link.
		downloads: options.downloadVideo !== false && !isTool(context),
		keepsOnServer: panel.keepsOnServer,
		isSimple: isSimple(context, i),
		isForAgent: isTool(context),
	};
}

/** Whether an AI agent runs the node as its tool. In n8n 1.x and early 2.x only the name of the node's type shows it. */
export function isTool(context: IExecuteFunctions): boolean {
	const known = context as { isToolExecution?: () => boolean };
	return known.isToolExecution?.() ?? context.getNode().type.endsWith('Tool');
}

interface Panel {
	scene: IDataObject;
	options: IDataObject;
	captions: IDataObject;
	format: IDataObject;
	check: IDataObject;
	marking: IDataObject;
	engineOptions: IDataObject;
	waits: boolean;
	keepsOnServer: boolean;
}

function panelNow(context: IExecuteFunctions, i: number): Panel {
	const options = context.getNodeParameter('options', i, {}) as IDataObject;
	const { option } = context.getNodeParameter('engineOptions', i, {}) as {
		option?: Array<{ name: string; value: unknown }>;
	};
	const given = (option ?? []).filter(({ name }) => text(name) !== '');
	return {
		scene: context.getNodeParameter('scene', i, {}) as IDataObject,
		options,
		captions: context.getNodeParameter('captions', i, {}) as IDataObject,
		format: context.getNodeParameter('format', i, {}) as IDataObject,
		check: context.getNodeParameter('check', i, {}) as IDataObject,
		marking: context.getNodeParameter('marking', i, {}) as IDataObject,
		engineOptions: Object.fromEntries(
			given.map(({ name, value }) => [
				text(name),
				jsonParse<string>(text(value), { fallbackValue: text(value) }),
			]),
		),
		waits: options.wait !== false,
		keepsOnServer: options.keepOnServer === true,
	};
}

function panelOfVersion1(context: IExecuteFunctions, i: number): Panel {
	const more = context.getNodeParameter('additionalFields', i, {}) as IDataObject;
	// n8n throws for a hidden field unless the call gives a fallback, here null.
	const field = (name: string) => context.getNodeParameter(name, i, null) as IDataObject[string];
	return {
		scene: {
			prompt: field('prompt'),
			resolution: field('resolution'),
			preset: field('preset'),
			secondAudioField: more.secondAudioField,
			secondAudioUrl: more.secondAudioUrl,
		},
		options: {
			...more,
			seed: field('seed'),
			fileName: field('fileName'),
			outputField: field('outputField'),
			timeoutMinutes: field('timeoutMinutes'),
		},
		captions: {},
		format: {},
		check: {},
		marking: {},
		engineOptions: engineOptionsOfVersion1(context, more.engineOptions, i),
		waits: field('wait') !== 'none',
		keepsOnServer: more.markCollected === false,
	};
}

async function addInput(
	context: IExecuteFunctions,
	form: Form,
	wanted: WantedInput,
	i: number,
): Promise<void> {
	const { name, noun } = wanted;
	const from = context.getNodeParameter(`${name}Input`, i, isTool(context) ? 'url' : 'binary');
	if (wanted === RECORDING && addSpeech(context, form, String(from), i)) return;
	if (from !== 'url') {
		const field: unknown = context.getNodeParameter(`${name}Field`, i, '');
		form.files.push(await filePart(context, i, field, wanted));
		return;
	}
	const url = text(context.getNodeParameter(`${name}Url`, i, ''));
	if (!/^https?:\/\//i.test(url)) {
		throw new NodeOperationError(
			context.getNode(),
			`The address of the ${noun} is ${JSON.stringify(url)}; it has to begin with http:// or https://`,
			{
				description:
					wanted === RECORDING && isTool(context)
						? 'Give Audio URL an address that the Lipsync server can reach, or write the words into Text'
						: 'Give an address that the Lipsync server can reach',
				itemIndex: i,
			},
		);
	}
	form.texts[`${name}_url`] = url;
}

/** Adds the words that the server speaks in place of a recording, if the panel has them. An agent gives either. */
function addSpeech(context: IExecuteFunctions, form: Form, from: string, i: number): boolean {
	if (from !== 'text' && !isTool(context)) return false;
	const words = text(context.getNodeParameter('speechText', i, ''));
	if (words === '' && isTool(context)) return false;
	if (words === '') {
		throw new NodeOperationError(context.getNode(), 'The field Text has no words to speak', {
			description: 'Write the words, or set Audio From to a file or a URL',
			itemIndex: i,
		});
	}
	form.texts.text = words;
	form.texts.voice = text(context.getNodeParameter('speechVoice', i, ''));
	form.texts.language =
		text(context.getNodeParameter('speechLanguage', i, '')) || (form.texts.language ?? '');
	return true;
}

function engineOptionsOfVersion1(
	context: IExecuteFunctions,
	value: unknown,
	i: number,
): IDataObject {
	const options: unknown =
		typeof value === 'string' ? jsonParse(value.trim() || '{}', { fallbackValue: null }) : value;
	if (options === undefined) return {};
	if (typeof options !== 'object' || options === null || Array.isArray(options)) {
		throw new NodeOperationError(context.getNode(), 'Engine Options is not a JSON object', {
			description:
				'Write it like {"head_motion": 0.5}; Server > Get Info lists the options of each engine',
			itemIndex: i,
		});
	}
	return options as IDataObject;
}
