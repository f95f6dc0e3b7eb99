/** Vast.ai: containers on other people's machines, by its API v0. */
import type { IDataObject } from 'n8n-workflow';

import type { ProviderApi } from './api';
import { Instances } from './instances';
import { MIN_CUDA, PORT, cheapestFirst, matches, numberOrNull } from './machine';
import type { Machine, Offer, Provider, States } from './machine';

const STATES: States = {
	running: 'running',
	stopped: 'stopped',
	exited: 'stopped',
	offline: 'failed',
	frozen: 'failed',
};

export function vast(api: ProviderApi): Provider {
	const instances = new Instances(api, '/instances', 'instance', '/');
	return {
		title: 'Vast.ai',
		offers: async (wish) => {
			const query = {
				num_gpus: { eq: 1 },
				verified: { eq: true },
				rentable: { eq: true },
				direct_port_count: { gte: 1 },
				gpu_ram: { gte: Math.trunc(wish.minMemoryGb * 1000) },
				disk_space: { gte: wish.diskGb },
				cuda_max_good: { gte: Number(MIN_CUDA) },
				type: 'ondemand',
				order: [['dph_total', 'asc']],
				limit: 200,
			} as unknown as IDataObject;
			const { body } = await api.call({
				method: 'POST',
				path: '/bundles/',
				body: query,
				isHarmless: true,
			});
			const found = (body.offers ?? []) as IDataObject[];
			return cheapestFirst(
				found.filter((each) => matches(wish.gpu, String(each.gpu_name ?? ''))).map(offerOf),
			);
		},
		create: async (offerId, order) => {
			// `args` keeps the image's own entrypoint; `ssh` runs Vast's, which then runs `onstart`. Ports are Docker flags
			// among the variables.
			const { body } = await api.call({
				method: 'PUT',
				path: `/asks/${encodeURIComponent(offerId)}/`,
				isHarmless: false,
				body: {
					image: order.image,
					disk: order.diskGb,
					target_state: 'running',
					label: order.label,
					env: { ...order.environment, [`-p ${PORT}:${PORT}`]: '1' },
					...(order.script === ''
						? { runtype: 'args' }
						: { runtype: 'ssh', onstart: onstart(order.script) }),
				},
			});
			return String(body.new_contract);
		},
		state: async (id) => {
			const found = (await instances.read(id))?.instances as IDataObject | null | undefined;
			return found ? machineOf(id, found) : instances.gone(id);
		},
		list: async () => {
			const found = ((await instances.readAll()).instances ?? []) as IDataObject[];
			return found.map((each) => machineOf(String(each.id), each));
		},
		act: async (id, action) => {
			if (action === 'destroy') return await instances.remove(id);
			const state = action === 'start' ? 'running' : 'stopped';
			await api.call({ method: 'PUT', path: instances.path(id), body: { state } });
		},
	};
}

/** Vast waits for `onstart` to end, so the script continues in the background and writes its own log. */
export function onstart(script: string): string {
	return [
		`cat > /root/start-lipsync.sh <<'END_OF_SCRIPT'\n${script}END_OF_SCRIPT`,
		'setsid bash /root/start-lipsync.sh > /var/log/lipsync.log 2>&1 < /dev/null &',
		'',
	].join('\n');
}

function offerOf(each: IDataObject): Offer {
	return {
		id: String(each.id),
		gpu: String(each.gpu_name ?? '?'),
		memoryGb: Number(each.gpu_ram ?? 0) / 1024,
		pricePerHour: Number(each.dph_total),
		where: String(each.geolocation ?? ''),
	};
}

function machineOf(id: string, instance: IDataObject): Machine {
	const status = String(instance.actual_status ?? '');
	let state = STATES[status] ?? 'starting';
	if (state === 'starting' && instance.intended_status === 'stopped') state = 'stopped';
	return {
		id,
		state,
		url: urlOf(instance),
		pricePerHour: numberOrNull(instance.dph_total),
		detail: String(instance.status_msg || status || 'scheduling')
			.replace(/\s+/g, ' ')
			.slice(0, 200),
		label: String(instance.label ?? ''),
	};
}

/**
 * The server's address, from the present port mapping: a restart may change it. Vast.ai gives the mapping in Docker's
 * form, or as a list of outer ports.
 */
function urlOf(instance: IDataObject): string {
	const host = String(instance.public_ipaddr ?? '').trim();
	const ports = instance.ports as IDataObject | unknown[] | null | undefined;
	let outer: unknown;
	if (Array.isArray(ports)) outer = ports[0];
	else if (ports) outer = ((ports[`${PORT}/tcp`] ?? []) as IDataObject[])[0]?.HostPort;
	return host && outer ? `http://${host}:${String(outer)}` : '';
}
