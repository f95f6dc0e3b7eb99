/**
 * Machine > Start: starts a machine that was rented before, or rents one, and waits until its server takes jobs.
 *
 * A second try of the same execution (Retry On Fail) rents no second machine: it finds the first one by its label, and
 * computes the same token from the API key and the execution. A machine that does not become ready is given back.
 */
import { createHmac } from 'crypto';
import {
	NodeOperationError,
	type IDataObject,
	type IExecuteFunctions,
	type INodeProperties,
} from 'n8n-workflow';

import { asNodeError, messageOf } from '../../api/errors';
import { eachItem, numberBetween, text } from '../../items';
import { fingerprint } from '../../jobs/submit';
import { accountOf, type Account } from '../../machines';
import { PORT, type Machine } from '../../machines/machine';
import { readMissing, waitUntilReady } from '../../machines/ready';
import { chooseSoftware } from '../../machines/software';
import type { Operation } from '../../operation';
import { machineIdField, readMachineId } from './machineId';
import { readServerToken, serverTokenField } from './serverToken';

const MINUTE_MS = 60_000;
/** As `lipsync cloud up --idle-stop` has it. */
const IDLE_STOP_MINUTES = 5;
/** The profile of `lipsync cloud up`; a test of the server compares the two, because no server exists yet to ask. */
const PROFILE = 'infinitetalk-int8-fast';
const rents = { show: { startMode: ['rent'] } };

const fields: INodeProperties[] = [
	{
		displayName: 'Machine',
		name: 'startMode',
		type: 'options',
		noDataExpression: true,
		options: [
			{
				name: 'One That I Have Rented',
				value: 'existing',
				description: 'Start a stopped machine again; its model files are still on its disk',
			},
			{
				name: 'Rent the Cheapest That Fits',
				value: 'rent',
				description: 'Rent a new machine; it downloads its model files first',
			},
		],
		default: 'existing',
		description: 'Which machine to start',
	},
	{ ...machineIdField, default: '', displayOptions: { show: { startMode: ['existing'] } } },
	{
		...serverTokenField,
		default: '',
		hint: 'The token that the server on this machine was set up with. It goes into the output for the next node',
		displayOptions: { show: { startMode: ['existing'] } },
	},
	{
		displayName: 'GPU',
		name: 'gpu',
		type: 'string',
		default: 'RTX 4090',
		placeholder: 'e.g. RTX 4090',
		description: 'Part of the name of the card. Leave empty for any.',
		displayOptions: rents,
	},
	{
		displayName: 'Max Price per Hour (USD)',
		name: 'maxPrice',
		type: 'number',
		typeOptions: { minValue: 0, numberPrecision: 3 },
		default: 1,
		description: 'The node fails instead of renting a more expensive machine',
		displayOptions: rents,
	},
	{
		displayName: 'Docker Image',
		name: 'image',
		type: 'string',
		default: '',
		placeholder: 'e.g. your-name/lipsync:gpu',
		description:
			'An image of the Lipsync server that you have pushed. Left empty, the published image of this version is used.',
		displayOptions: rents,
	},
	{
		displayName: 'Source',
		name: 'source',
		type: 'string',
		default: '',
		placeholder: 'e.g. https://example.com/lipsync_server-0.1.0-py3-none-any.whl',
		description:
			"Instead of an image: the https address of a wheel or source archive. The machine starts PyTorch's image and installs it there.",
		displayOptions: rents,
	},
	{
		displayName: 'Options',
		name: 'machineOptions',
		type: 'collection',
		placeholder: 'Add Option',
		default: {},
		options: [
			{
				displayName: 'Disk (GB)',
				name: 'diskGb',
				type: 'number',
				typeOptions: { minValue: 10 },
				default: 70,
				description: 'Disk of a new machine; it cannot grow later',
			},
			{
				displayName: 'Idle Stop (Minutes)',
				name: 'idleStopMinutes',
				type: 'number',
				typeOptions: { minValue: 0 },
				default: IDLE_STOP_MINUTES,
				description:
					'A new machine at Vast.ai or RunPod stops itself so many minutes after the last collected video; 0 switches that off',
			},
			{
				displayName: 'If It Does Not Get Ready',
				name: 'ifNotReady',
				type: 'options',
				options: [
					{
						name: 'Give It Back',
						value: 'giveBack',
						description: 'Delete a machine that was just rented; stop one that you had',
					},
					{
						name: 'Leave It Running',
						value: 'leave',
						description: 'The provider keeps billing it',
					},
				],
				default: 'giveBack',
				description: 'What happens to the machine when the node fails or is stopped while it waits',
			},
			{
				displayName: 'Min GPU Memory (GB)',
				name: 'minMemoryGb',
				type: 'number',
				typeOptions: { minValue: 0 },
				default: 23,
				description: 'The least GPU memory of a new machine',
			},
			{
				displayName: 'Profile',
				name: 'profile',
				type: 'string',
				default: PROFILE,
				description:
					'The model files that a new machine downloads. Left empty, it downloads none and has the preview engine alone.',
			},
			{
				displayName: 'SSH Public Key',
				name: 'sshKey',
				type: 'string',
				default: '',
				placeholder: 'e.g. ssh-ed25519 AAAA…',
				description: 'TensorDock needs one for a new machine',
			},
			{
				displayName: 'Timeout for the Machine (Minutes)',
				name: 'startMinutes',
				type: 'number',
				typeOptions: { minValue: 0.01 },
				default: 15,
				description: 'How long the provider may take to start it',
			},
			{
				displayName: 'Timeout for the Server (Minutes)',
				name: 'readyMinutes',
				type: 'number',
				typeOptions: { minValue: 0.01 },
				default: 60,
				description: 'How long the server on it may take, with the download of its model files',
			},
		],
	},
];

interface StartAsk {
	options: IDataObject;
	limits: { startMs: number; readyMs: number };
	leaves: boolean;
}

interface Obtained {
	id: string;
	token: string;
	isNew: boolean;
}

export const start: Operation = {
	option: {
		name: 'Start',
		value: 'start',
		description: 'Start or rent a machine with a GPU, and wait until its server is ready',
		action: 'Start rented machine',
	},
	fields,
	run: async (context) =>
		await eachItem(context, async (i) => {
			const began = Date.now();
			const ask = readAsk(context, i);
			const account = await accountOf(context, i);
			const obtained = await obtain(context, account, ask, i);
			const machine = await readyOrGivenBack(context, account, obtained, ask, i);
			return {
				json: {
					machine_id: obtained.id,
					provider: account.name,
					state: machine.state,
					url: machine.url,
					token: obtained.token,
					price_per_hour: machine.pricePerHour,
					rented: obtained.isNew,
					missing: await readMissing(context, machine.url, obtained.token),
					waited_s: Math.round((Date.now() - began) / 1000),
				},
				pairedItem: { item: i },
			};
		}),
};

function readAsk(context: IExecuteFunctions, i: number): StartAsk {
	const options = context.getNodeParameter('machineOptions', i, {}) as IDataObject;
	const ms = (name: string, label: string, normal: number) =>
		numberBetween(context, label, options[name] ?? normal, [0.01, 10_080], i) * MINUTE_MS;
	return {
		options,
		limits: {
			startMs: ms('startMinutes', 'Timeout for the Machine', 15),
			readyMs: ms('readyMinutes', 'Timeout for the Server', 60),
		},
		leaves: options.ifNotReady === 'leave',
	};
}

async function obtain(
	context: IExecuteFunctions,
	account: Account,
	{ options }: StartAsk,
	i: number,
): Promise<Obtained> {
	const { provider } = account;
	if (context.getNodeParameter('startMode', i) === 'existing') {
		const id = readMachineId(context, i);
		await provider.act(id, 'start');
		return { id, token: readServerToken(context, i), isNew: false };
	}
	const name = fingerprint(context, i);
	const label = `lipsync-${name.slice(0, 12)}`;
	const token = createHmac('sha256', account.apiKey).update(name).digest('base64url').slice(0, 32);
	const before = (await provider.list()).find(
		(machine) => machine.label === label && machine.state !== 'gone' && machine.state !== 'failed',
	);
	if (before !== undefined) {
		if (before.state === 'stopped') await provider.act(before.id, 'start');
		return { id: before.id, token, isNew: true };
	}
	const software = chooseSoftware(
		text(context.getNodeParameter('image', i, '')),
		text(context.getNodeParameter('source', i, '')),
	);
	const gpu = text(context.getNodeParameter('gpu', i, ''));
	const maxPrice = numberBetween(
		context,
		'Max Price per Hour',
		context.getNodeParameter('maxPrice', i),
		[0, 1000],
		i,
	);
	const diskGb = numberBetween(context, 'Disk', options.diskGb ?? 70, [10, 10_000], i);
	const minMemoryGb = Number(options.minMemoryGb ?? 23);
	const [offer] = await provider.offers({ gpu, minMemoryGb, diskGb });
	if (offer === undefined || offer.pricePerHour > maxPrice) {
		const cheapest =
			offer === undefined ? '' : `; the cheapest is $${offer.pricePerHour.toFixed(3)} an hour`;
		throw new NodeOperationError(
			context.getNode(),
			`${provider.title} has no ${gpu || 'GPU'} with ${minMemoryGb} GB for $${maxPrice} an hour now${cheapest}`,
			{
				description: 'Raise Max Price per Hour, choose another GPU, or try again later',
				itemIndex: i,
			},
		);
	}
	const idleStop =
		account.name === 'tensordock' ? 0 : Number(options.idleStopMinutes ?? IDLE_STOP_MINUTES);
	const profile = text(options.profile ?? PROFILE);
	const id = await provider.create(offer.id, {
		...software,
		diskGb,
		label,
		sshKey: text(options.sshKey),
		environment: {
			LIPSYNC_HOST: '0.0.0.0',
			LIPSYNC_PORT: String(PORT),
			LIPSYNC_TOKENS: token,
			...(profile === '' ? {} : { LIPSYNC_PROFILE: profile }),
			LIPSYNC_IDLE_STOP: String(idleStop),
			LIPSYNC_PRICE_PER_HOUR: String(offer.pricePerHour),
		},
	});
	return { id, token, isNew: true };
}

async function readyOrGivenBack(
	context: IExecuteFunctions,
	account: Account,
	{ id, isNew }: Obtained,
	{ limits, leaves }: StartAsk,
	i: number,
): Promise<Machine> {
	try {
		return await waitUntilReady(context, account.provider, id, limits, i);
	} catch (error) {
		const known = asNodeError(context, error, i);
		if (leaves) {
			known.description = `The provider keeps billing machine ${id}: stop it with Machine > Stop`;
			throw known;
		}
		try {
			await account.despiteStop.act(id, isNew ? 'destroy' : 'stop');
			known.description = `Machine ${id} was ${isNew ? 'given back; it costs nothing any more' : 'stopped'}`;
		} catch (second) {
			known.description = `Machine ${id} could not be stopped, and the provider keeps billing it: ${messageOf(second)}`;
		}
		throw known;
	}
}
